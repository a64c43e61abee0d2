"""Reads a body, of JSON or a form: bounded in size and time, and strict."""

import asyncio
from typing import TypeVar
from urllib.parse import parse_qsl

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import TypeAdapter, ValidationError

from custody.deadline import Deadline
from custody.http import problems
from custody.strict_json import decode_object

MAX_BODY_BYTES = 16 * 1024

Body = TypeVar("Body")


async def read_json(
    request: web.BaseRequest, adapter: TypeAdapter[Body], deadline: Deadline
) -> Body:
    """Read and validate a body.

    Args:
        request: whose body.
        adapter: the type that the body must have.
        deadline: of the request.

    Raises:
        Problem: 400, 413 or 415.
    """
    _check_media_type(request)
    text = await _read(request, deadline)
    try:
        return adapter.validate_python(_parse(text))
    except ValidationError as error:
        raise problems.bad_request(_explain(error)) from None


async def read_field(request: web.BaseRequest, name: str, deadline: Deadline) -> str:
    """Read the one field that a form has.

    Args:
        request: whose body.
        name: of the field.
        deadline: of the request.

    Raises:
        Problem: 400, 413 or 415.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise problems.Problem(
            415, "UNSUPPORTED_MEDIA_TYPE", "The body must be application/x-www-form-urlencoded."
        )
    text = await _read(request, deadline)
    try:
        ((field, value),) = parse_qsl(
            text.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=1
        )
    except ValueError:
        raise problems.bad_request("The body is not a form with one field.") from None
    if field != name:
        raise problems.bad_request("The body is not a form with one field.")
    return value


def _check_media_type(request: web.BaseRequest) -> None:
    charset = (request.charset or "utf-8").lower()
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if (
        request.content_type != "application/json"
        or "Content-Type" not in request.headers
        or charset not in {"utf-8", "utf8"}
        or encoding != "identity"
    ):
        raise problems.unsupported_media_type()


async def _read(request: web.BaseRequest, deadline: Deadline) -> bytes:
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise problems.payload_too_large(MAX_BODY_BYTES)
    body = bytearray()
    try:
        async with asyncio.timeout_at(deadline.at):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise problems.payload_too_large(MAX_BODY_BYTES)
    except TimeoutError:
        raise problems.bad_request("The body did not arrive in time.") from None
    except (ClientPayloadError, HttpProcessingError, web.RequestPayloadError, ConnectionError):
        raise problems.bad_request("The body is broken off or badly framed.") from None
    return bytes(body)


def _parse(body: bytes) -> dict[str, object]:
    try:
        return decode_object(body)
    except ValueError:
        raise problems.bad_request("The body is not a JSON object in UTF-8.") from None


def _explain(error: ValidationError) -> str:
    """Name the fields that do not fit. Neither values nor unknown names are repeated."""
    reasons = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        match item["type"]:
            case "extra_forbidden":
                reasons.append("there is an unknown field")
            case "string_pattern_mismatch":
                reasons.append(f"{item['loc'][-1]} is not canonical base64 of the right length")
            case "zero_knowledge_body":
                reasons.append(item["msg"])
            case _:
                where = str(item["loc"][-1]) if item["loc"] else "the body"
                reasons.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
    return "The body does not fit: " + "; ".join(sorted(set(reasons))) + "."
