"""Where the AWS SDK gets credentials from: STS, a container's agent and SSO, each in its protocol.

A stub of ours: moto checks no token. What it issues lives for a short while, and a KMS stub takes
nothing else.
"""

import json
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qs

from tests.http_servers import Asked, HttpServer
from tests.kek.kms_stub import Fault, KmsStub, Refused, Request, say
from tests.leaks import remember

_STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{key}</AccessKeyId>
<SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>
<Expiration>{until}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""
_REFUSED = """<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code>
<Message>the token {token} is not good</Message></Error></ErrorResponse>"""


class CredentialStub(HttpServer):
    """Issues credentials to whoever shows the one token that is good now.

    Args:
        life: seconds that they live.
    """

    def __init__(self, life: float) -> None:
        super().__init__(self._respond)
        self.life = life
        self.good = ""
        self.shown: list[str] = []
        self.fault: Fault | None = None
        self._issued: dict[str, float] = {}

    def guard(self, kms: KmsStub) -> Fault:
        """Return what a KMS does that takes these credentials alone, and while they live."""

        def answer(asked: Asked, operation: str, request: Request) -> None:
            key = asked.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
            if self._issued.get(key, 0.0) < time.time():
                raise Refused("ExpiredTokenException")
            say(asked, kms.answer(operation, request))

        return answer

    def _respond(self, asked: Asked) -> None:
        if self.fault is not None:
            self.fault(asked, asked.path, {})
            return
        form = parse_qs(asked.body.decode())
        token = (
            form.get("WebIdentityToken", [""])[0]
            or asked.headers.get("x-amz-sso_bearer_token")
            or asked.headers["Authorization"]
        )
        self.shown.append(token)
        if token != self.good:
            status = 400 if form else 401
            asked.say((_REFUSED.format(token=token) if form else "{}").encode(), status, "text/xml")
            return
        made = self._issue()
        if form:
            asked.say(_STS.format(**made).encode(), kind="text/xml")
        elif "federation" in asked.path:
            asked.say(json.dumps({"roleCredentials": _of_sso(made)}).encode())
        else:
            asked.say(json.dumps(_of_container(made)).encode())

    def _issue(self) -> dict[str, str]:
        key, until = f"ASIA{secrets.token_hex(8).upper()}", time.time() + self.life
        self._issued[key] = until
        return {
            "key": key,
            "secret": remember(secrets.token_hex(20)),
            "token": remember(secrets.token_hex(20)),
            "until": datetime.fromtimestamp(until, UTC).isoformat(),
        }


def _of_sso(made: Mapping[str, str]) -> dict[str, object]:
    until = datetime.fromisoformat(made["until"]).timestamp()
    return {
        "accessKeyId": made["key"],
        "secretAccessKey": made["secret"],
        "sessionToken": made["token"],
        "expiration": int(until * 1000),
    }


def _of_container(made: Mapping[str, str]) -> dict[str, str]:
    return {
        "AccessKeyId": made["key"],
        "SecretAccessKey": made["secret"],
        "Token": made["token"],
        "Expiration": made["until"],
    }
