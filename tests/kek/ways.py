"""The ways to a transit key, beside http and a token: each on a real OpenBao."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.bao_agent import bao_agent
from tests.bao_server import Bao, least_policy
from tests.http_servers import Asked, HttpServer, serving
from tests.leaks import remember

WAYS = ("mTLS", "path", "agent", "namespace")


@contextmanager
def way_to(bao: Bao, key: str, way: str, folder: Path) -> Iterator[Mapping[str, str]]:
    """Yield the variables of a way.

    Args:
        bao: has the key.
        key: of the mount ``transit``.
        way: one of WAYS.
        folder: for an agent.
    """
    if way == "mTLS":
        yield bao.environ(key, period="24h") | bao.tls_environ(f"client-{key}")
    elif way == "path":
        with below_a_path(bao) as url:
            yield bao.environ(key, period="24h") | {"VAULT_ADDR": url}
    elif way == "agent":
        with bao_agent(bao, folder, bao.write_policy(key)) as agent:
            yield {"VAULT_ADDR": agent.address}
    else:
        yield namespaced(bao, key)


@contextmanager
def below_a_path(bao: Bao) -> Iterator[str]:
    """Stand before a server, which is below a path, as behind a proxy; yield its URL."""

    def pass_on(asked: Asked) -> None:
        path = asked.path.removeprefix("/secrets/vault")
        if path == asked.path:
            asked.say(status=404)
            return
        url, headers = bao.address + path, dict(asked.headers)
        reply = requests.request(asked.command, url, data=asked.body, headers=headers, timeout=10)
        asked.say(reply.content, reply.status_code)

    with serving(HttpServer(pass_on)) as server:
        yield f"{server.url}/secrets/vault/"


def namespaced(bao: Bao, key: str) -> dict[str, str]:
    """Make a key of the same name in a namespace of a namespace."""
    outer, inner = f"team-{secrets.token_hex(4)}", "users"
    within = bao.within(outer)
    bao.ask("POST", f"sys/namespaces/{outer}", {})
    within("POST", f"sys/namespaces/{inner}", {})
    within = bao.within(f"{outer}/{inner}")
    within("POST", "sys/mounts/transit", {"type": "transit"})
    within("POST", f"transit/keys/{key}", {"derived": True})
    within("PUT", "sys/policies/acl/custody", {"policy": least_policy(key)})
    made = within("POST", "auth/token/create", {"policies": ["custody"], "period": "24h"})
    return {
        "VAULT_ADDR": bao.address,
        "VAULT_TOKEN": remember(made["auth"]["client_token"]),
        "VAULT_NAMESPACE": f"/{outer}/{inner}/",
    }
