"""What an operator should know of a transit key, its policy and its token."""

from collections.abc import Callable, Mapping
from typing import Any

from kek_backends.errors import KekError, Transient
from kek_backends.findings import Finding, Verdict
from kek_backends.remote import RemoteKek
from kek_backends.transit.key import KeyPath, TransitKey
from kek_backends.transit.tokens import Tokens

_HOUR = 3600
_RIGHTS = {"encrypt": "update", "decrypt": "update", "rewrap": "update", "keys": "read"}
_CHANGING = {"create", "update", "delete", "patch", "sudo"}


async def examine(
    kek: RemoteKek,
    path: KeyPath,
    tokens: Tokens,
    state: Callable[[], TransitKey | None],
    *,
    active: bool,
) -> list[Finding]:
    """Look at a transit key with the rights of its own token.

    Args:
        kek: the KEK.
        path: of its key.
        tokens: its login.
        state: returns what the server said of the key when it was last asked.
        active: whether it is to wrap.
    """
    try:
        seen = await kek.ask_in_thread(lambda: tokens.call(lambda client: _look(client, path)))
    except KekError as error:
        return [_failure(error)]
    token, rights = seen
    found = _of_token(token, tokens)
    try:
        await kek.refresh()
    except KekError as error:
        found.append(_failure(error))
    key = state()
    found += _of_rights(rights, path, active=active, derived=key is None or key.derived)
    if key is not None:
        found += _of_key(key.details, path)
        try:
            if active:
                await kek.prove()
        except KekError as error:
            found.append(_failure(error))
    if found:
        return found
    use = "wraps and unwraps" if active else "ready to unwrap"
    return [Finding(Verdict.OK, f"{use}; kek_id {kek.kek_id}")]


def _look(client: Any, path: KeyPath) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    calls = [f"{path.mount}/{call}/{path.key}" for call in _RIGHTS]
    rights = client.sys.get_capabilities(paths=calls)
    token = client.auth.token.lookup_self()
    return token["data"], rights["data"]


def _of_token(token: Mapping[str, Any], tokens: Tokens) -> list[Finding]:
    found = []
    if "root" in token.get("policies", ()):
        found.append(_finding("the token is a root token; make one with the least policy"))
    ttl = token.get("ttl") or 0
    for_ever = not ttl or (token.get("period") and token.get("renewable"))
    # Whoever logs in gets the next one by itself; an agent that writes a file does, if it runs.
    looked_after = tokens.logs_in or (tokens.repeatable and ttl > _HOUR)
    if not (for_ever or looked_after):
        found.append(
            _finding(
                f"the token expires in {ttl} s for good; log in by VAULT_ROLE_ID and "
                "VAULT_SECRET_ID, or make a token with a period: bao token create -period=24h"
            )
        )
    return found


def _of_rights(
    rights: Mapping[str, Any], path: KeyPath, *, active: bool, derived: bool
) -> list[Finding]:
    found = []
    for call, needed in _RIGHTS.items():
        at = f"{path.mount}/{call}/{path.key}"
        granted = set(rights.get(at, ()))
        if "root" in granted:
            continue  # the root token is a finding of its own
        wanted = {"encrypt": active, "rewrap": active and derived}.get(call, True)
        if wanted and needed not in granted:
            found.append(_finding(f'the policy lacks "{needed}" on {at}'))
        if call == "encrypt" and "create" in granted:
            found.append(
                _finding(
                    f"the policy may create keys: a misspelt or deleted key would come into being "
                    f'at the first wrap; take "create" from {at}'
                )
            )
        if call == "keys" and granted & _CHANGING:
            found.append(_finding(f'the policy may change the key; leave only "read" on {at}'))
    return found


def _of_key(key: Mapping[str, Any], path: KeyPath) -> list[Finding]:
    at = f"{path.mount}/keys/{path.key}"
    found = []
    if not key["derived"]:
        found.append(
            _finding(
                "the key is not derived: it binds by associated data, and the server can't "
                f"re-wrap; better make a new one: bao write -f {path.mount}/keys/NAME derived=true"
            )
        )
    if key.get("exportable") or key.get("allow_plaintext_backup"):
        found.append(_finding(f"{at} may leave the server: exportable, or backed up in plain"))
    if key.get("deletion_allowed"):
        found.append(
            _finding(f"{at} may be deleted; run: bao write {at}/config deletion_allowed=false")
        )
    return found


def _finding(message: str) -> Finding:
    return Finding(Verdict.FINDING, message)


def _failure(error: KekError) -> Finding:
    down = isinstance(error, Transient)
    return Finding(Verdict.DOWN if down else Verdict.FINDING, str(error))
