"""The OpenAPI document: valid, true to the routes, and kept by the daemon case by case."""

import base64
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from custody.development.postgres import EmbeddedPostgres
from custody.http.openapi import document
from custody.http.routes import BASE_PATH, ROUTES, Route
from tests.servers import TEMPLATE, Daemon, Database, daemon_beside
from tests.tokens import Issuer

WRAPPED = base64.b64encode(secrets.token_bytes(48)).decode()
IV = base64.b64encode(secrets.token_bytes(12)).decode()
STATES = ("nothing", "vault", "recovery", "zero knowledge")
# Of each route and mode: 2,100 in all.
CASES = [25, pytest.param(150, marks=pytest.mark.prove)]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(document())


def test_it_is_openapi_3_1() -> None:
    """Parsed, every reference resolved, every schema one of JSON Schema 2020-12."""
    made = document()
    assert made["openapi"].startswith("3.1.")
    assert made["info"]["title"] == "custody"
    operations = list(SCHEMA.get_all_operations())
    assert [type(operation).__name__ for operation in operations] == ["Ok"] * len(ROUTES)
    for schema in made["components"]["schemas"].values():
        Draft202012Validator({**schema, "components": made["components"]})
    text = str(made)
    for reference in re.findall(r"#/components/schemas/(\w+)", text):
        assert reference in made["components"]["schemas"]
    identifiers = re.findall(r"'operationId': '(\w+)'", text)
    assert len(identifiers) == len(set(identifiers)) == len(ROUTES)
    assert made["security"] == [{"token": []}]
    assert made["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_it_is_the_routes() -> None:
    made = document()
    assert {
        (method.upper(), path) for path, methods in made["paths"].items() for method in methods
    } == {(route.method, BASE_PATH + route.path) for route in ROUTES}
    for route in ROUTES:
        operation = made["paths"][BASE_PATH + route.path][route.method.lower()]
        assert ("requestBody" in operation) == (route.body is not None)
        assert bool(operation.get("parameters")) == route.takes_if_match
        assert ("ETag" in operation["responses"]["200"].get("headers", {})) == route.has_etag
        for status, code in route.refusals:
            assert code in operation["responses"][str(status)]["description"]
        for status, described in operation["responses"].items():
            media = "application/json" if status == "200" else "application/problem+json"
            assert set(described["content"]) == {media}


class Users:
    """Users in every state, a fresh one for each case, as a case may change its user's state."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.session = requests.Session()
        self.token = ""
        self.key = ""

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        headers = {"Authorization": self.token}
        url = self.daemon.base + path
        return self.session.request(method, url, json=body, headers=headers, timeout=30)

    def make(self, state: str) -> None:
        """Become a new user, and bring its vault into a state."""
        self.token = self.daemon.issuer.bearer(f"user-{secrets.token_hex(8)}")
        level = STATES.index(state)
        if level >= 1:
            self.key = self.call("POST", "/init").json()["masterKey"]
        if level >= 2:
            body = {"recoveryWrappedMk": WRAPPED, "recoveryIv": IV}
            assert self.call("POST", "/recovery-wrap", body).ok
        if level >= 3:
            assert self.call("POST", "/zero-knowledge", {"enable": True}).ok

    def send(self, case: Any) -> requests.Response:
        """Send a generated case with the user's token."""
        return case.call(  # type: ignore[no-any-return]
            base_url=self.daemon.base.removesuffix(BASE_PATH),
            headers={"Authorization": self.token},
            session=self.session,
            timeout=30,
        )


@pytest.fixture(scope="module")
def users(
    postgres: EmbeddedPostgres, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Users]:
    """One daemon for all cases that this test process sends."""
    admin, name = Database(postgres, "postgres"), f"test_{secrets.token_hex(6)}"
    made = admin.psql("postgres", "-c", f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    assert made.returncode == 0, made.stderr
    with daemon_beside(Database(postgres, name), issuer, tmp_path_factory.mktemp("api")) as daemon:
        users = Users(daemon)
        yield users
        users.session.close()
    admin.psql("postgres", "-c", f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("positive", [True, False], ids=["good data", "bad data"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("count", CASES)
def test_generated_cases(
    users: Users, route: Route, positive: bool, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is sent, in whichever state: status, type, headers and fields are documented."""
    operation = SCHEMA[BASE_PATH + route.path][route.method]
    kind = schemathesis.GenerationMode
    cases = operation.as_strategy(generation_mode=kind.POSITIVE if positive else kind.NEGATIVE)
    seen: Counter[str] = Counter()

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, state=st.sampled_from(STATES))
    def run(case: Any, state: str) -> None:
        users.make(state)
        response = users.send(case)
        seen["OK" if response.status_code == 200 else response.json()["code"]] += 1
        assert response.status_code < 500
        case.validate_response(response, checks=CHECKS)

    run()
    with capsys.disabled():
        print(f"\n{route.name}: {seen.total()} cases, {dict(seen)}")  # noqa: T201
    assert seen.total() >= 0.9 * count
    # Or they did not explore what they were made for.
    refusals = {code for status, code in route.refusals if status < 500} - {"USER_UNKNOWN"}
    assert set(seen) >= ({"OK"} | refusals if positive else {"UNAUTHORIZED"})
