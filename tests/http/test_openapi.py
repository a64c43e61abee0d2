"""The OpenAPI document: valid, true to the routes, and kept by the daemon case by case."""

import base64
import re
import secrets
import time
from collections import Counter
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

from custody.http.openapi import document
from custody.http.routes import BASE_PATH, ROUTES, Route
from tests.proofs import FULL
from tests.servers import Daemon

WRAPPED = base64.b64encode(secrets.token_bytes(48)).decode()
IV = base64.b64encode(secrets.token_bytes(12)).decode()
STATES = ("nothing", "vault", "pending", "recovery", "zero knowledge")
STEPS: tuple[tuple[str, dict[str, Any] | None], ...] = (
    ("/init", None),
    ("/rotation", None),
    ("/recovery-wrap", {"recoveryWrappedMk": WRAPPED, "recoveryIv": IV}),
    ("/zero-knowledge", {"enable": True}),
)
# Of each route and mode: 2,100 in all.
CASES = [25, pytest.param(150, marks=FULL)]
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
        assert bool(operation.get("parameters")) == (route.takes_if_match or route.is_paged)
        assert ("ETag" in operation["responses"]["200"].get("headers", {})) == route.has_etag
        challenged = operation["responses"]["401"]["description"].split(", ")
        assert challenged == ["UNAUTHORIZED"] + ["STEP_UP_REQUIRED"] * route.needs_step_up
        for status, code in route.refusals:
            assert code in operation["responses"][str(status)]["description"]
        for status, described in operation["responses"].items():
            media = "application/json" if status == "200" else "application/problem+json"
            assert set(described["content"]) == {media}


@pytest.mark.prove
@pytest.mark.parametrize(
    "positive",
    [
        pytest.param(True, id="good data", marks=pytest.mark.prove),
        pytest.param(False, id="bad data"),
    ],
)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("count", CASES)
def test_generated_cases(
    of_the_module: Daemon,
    route: Route,
    positive: bool,
    count: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever is sent, in whichever state: status, type, headers and fields are documented."""
    daemon = of_the_module
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
        # A new user each time: a case may change its state.
        user = f"user-{secrets.token_hex(8)}"
        base, headers = (
            daemon.base,
            {"Authorization": daemon.issuer.bearer(user, auth_time=time.time())},
        )
        for path, body in STEPS[: STATES.index(state)]:
            assert session.post(base + path, json=body, headers=headers, timeout=30).ok
            if path == "/rotation" and state != "pending":
                assert session.delete(base + path, headers=headers, timeout=30).ok
        base = base.removesuffix(BASE_PATH)
        response = case.call(base_url=base, headers=headers, session=session, timeout=30)
        seen["OK" if response.status_code == 200 else response.json()["code"]] += 1
        assert response.status_code < 500
        case.validate_response(response, checks=CHECKS)

    with requests.Session() as session:
        run()
    with capsys.disabled():
        print(f"\n{route.name}: {seen.total()} cases, {dict(seen)}")  # noqa: T201
    assert seen.total() >= 0.9 * count
    # Or they did not explore what they were made for.
    refusals = {code for status, code in route.refusals if status < 500} - {"USER_UNKNOWN"}
    assert set(seen) >= ({"OK"} | refusals if positive else {"UNAUTHORIZED"})
