"""The OpenAPI 3.1 document, generated from the route table and its types."""

from importlib.metadata import version
from typing import Any

from pydantic import TypeAdapter

from custody import DISTRIBUTION
from custody.http.body import MAX_BODY_BYTES
from custody.http.pages import CURSOR_PATTERN, DEFAULT_LIMIT, MAX_LIMIT
from custody.http.problems import MEDIA_TYPE
from custody.http.routes import BASE_PATH, ROUTES, Route

_REFERENCE = "#/components/schemas/{model}"

_COMMON = (
    (400, "BAD_REQUEST"),
    (401, "UNAUTHORIZED"),
    (429, "RATE_LIMITED"),
    (500, "INTERNAL"),
    (503, "DATABASE_UNAVAILABLE"),
    (503, "ISSUER_UNAVAILABLE"),
    (503, "OVERLOADED"),
)
_BODY = ((413, "PAYLOAD_TOO_LARGE"), (415, "UNSUPPORTED_MEDIA_TYPE"))

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "error"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "pattern": "^[A-Z][A-Z_]*$"},
        "error": {"type": "string"},
    },
}
_RETRY_AFTER = {
    "description": "Seconds after which to try again",
    "schema": {"type": "string", "pattern": "^[0-9]+$"},
}
_ETAG = {
    "description": "The vault's generation: it grows with every new master key",
    "schema": {"type": "string", "pattern": '^"[0-9]+"$'},
}
_STEP_UP = (401, "STEP_UP_REQUIRED")
_CHALLENGE = {
    "description": "RFC 6750; with STEP_UP_REQUIRED also RFC 9470: acr_values, max_age",
    "schema": {"type": "string", "pattern": "^Bearer"},
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "Only if the vault still has this generation; * is any existing vault",
    "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,18}")$'},
}
_LIMIT = {
    "name": "limit",
    "in": "query",
    "required": False,
    "description": "How many at most",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
}
_BEFORE = {
    "name": "before",
    "in": "query",
    "required": False,
    "description": "The next of the page before",
    "schema": {"type": "string", "pattern": f"^{CURSOR_PATTERN}$"},
}


def document() -> dict[str, Any]:
    """Return the document as JSON values."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        operations = paths.setdefault(BASE_PATH + route.path, {})
        operations[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "custody",
            "version": version(DISTRIBUTION),
            "description": "Keeps each user's master key. The user is the token's sub.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT (EdDSA)"}
            },
        },
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": _responses(route, schemas),
    }
    if route.takes_if_match:
        operation["parameters"] = [_IF_MATCH]
    if route.is_paged:
        operation["parameters"] = [_LIMIT, _BEFORE]
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "description": f"At most {MAX_BODY_BYTES} bytes",
            "content": {"application/json": {"schema": _schema(route.body, schemas)}},
        }
    return operation


def _responses(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {
        "description": "Done",
        "content": {
            "application/json": {"schema": _schema(route.response, schemas, mode="serialization")}
        },
    }
    if route.has_etag:
        success["headers"] = {"ETag": _ETAG}
    responses: dict[str, Any] = {"200": success}
    codes = _COMMON + route.refusals + (_BODY if route.body is not None else ())
    codes += (_STEP_UP,) if route.needs_step_up else ()
    for status in sorted({status for status, _ in codes}):
        responses[str(status)] = _problem(status, [code for at, code in codes if at == status])
    return responses


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    problem: dict[str, Any] = {
        "description": ", ".join(codes),
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "allOf": [
                        {"$ref": _REFERENCE.format(model="Problem")},
                        {"properties": {"status": {"const": status}, "code": {"enum": codes}}},
                    ]
                }
            }
        },
    }
    if status in {429, 503}:
        problem["headers"] = {"Retry-After": _RETRY_AFTER}
    if status == 401:  # noqa: PLR2004
        problem["headers"] = {"WWW-Authenticate": _CHALLENGE}
    return problem


def _schema(
    adapter: TypeAdapter[Any], schemas: dict[str, Any], mode: Any = "validation"
) -> dict[str, Any]:
    schema = adapter.json_schema(by_alias=True, ref_template=_REFERENCE, mode=mode)
    schemas.update(schema.pop("$defs", {}))
    if "title" in schema and schema.get("type") == "object":
        schemas[schema["title"]] = schema
        return {"$ref": _REFERENCE.format(model=schema["title"])}
    return schema
