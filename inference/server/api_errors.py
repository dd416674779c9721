"""Errors as OpenAI's API reports them: a status and one sentence, never a traceback.

What this leaves out: which input is wrong (api_fields.py and the routes).
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from inference.answering.engine_thread import EngineStopped, ServerBusy
from lm_core.user_error import UserError

RETRY_AFTER_SECONDS = 1
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
LONGEST_VALUE = 60  # characters of a wrong value that a message repeats
log = logging.getLogger("lm.serve")


class ApiError(HTTPException):
    """An answer other than 200. It is FastAPI's error, too, which a route's reading of a body lets
    through.

    Args:
        status: of HTTP.
        message: one sentence.
        param: the field that is wrong, if one is.
        code: for programs, such as "context_length_exceeded".
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(status, message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """Return the JSON object that clients expect."""
        kind = TYPES.get(self.status)
        kind = kind or ("invalid_request_error" if self.status < 500 else "server_error")
        return {
            "error": {
                "message": self.message, "type": kind, "param": self.param, "code": self.code
            }
        }  # fmt: skip

    def response(self, more_headers: Mapping[str, str] | None = None) -> JSONResponse:
        """Return the whole answer; a client that is asked to wait is told how long."""
        headers = dict(more_headers or {})
        if self.status in (429, 503):
            headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def api_error_of(error: Exception) -> ApiError:
    """Return what the client is told of an exception in a route."""
    match error:
        case ApiError():
            return error
        case ServerBusy():
            return ApiError(
                429, "too many requests are waiting; try again in a moment", code="server_busy"
            )
        case EngineStopped():
            return ApiError(503, str(error), code="engine_stopped")
        case UserError():
            return ApiError(400, str(error))
        case TimeoutError():
            return ApiError(504, "the request reached the server's time limit", code="timeout")
        case RecursionError():
            return ApiError(400, "the request is nested too deeply")
        case UnicodeEncodeError():
            return ApiError(400, "the request holds half of a surrogate pair, which is not text")
        case _:
            log.exception("a request failed", exc_info=error)
            return ApiError(500, f"internal error ({type(error).__name__}); see the server's log")


def validation_error(error: RequestValidationError) -> ApiError:
    """Return one sentence for the first field that is wrong. If it may have several forms, the form
    that came closest counts.
    """
    found = [(_place(each["loc"][1:], error.body), each) for each in error.errors()]
    top = found[0][0][:1]
    place, worst = max(
        (each for each in found if each[0][:1] == top),
        key=lambda each: (len(each[0]), not each[1]["type"].endswith("_type")),
    )
    field = _printable(".".join(map(str, place)))
    kind, message = worst["type"], worst["msg"]
    if kind == "json_invalid":
        return ApiError(400, f"the body is not valid JSON ({worst['ctx']['error']})")
    if kind == "extra_forbidden":
        return ApiError(400, f"the field {field} is not supported", field, "unsupported_field")
    if kind == "missing" and field:
        return ApiError(400, f"the field {field} is missing", field)
    if not field and kind != "value_error":
        return ApiError(
            400, "the body must be a JSON object, sent with Content-Type: application/json"
        )
    if kind == "value_error":
        reason = message.removeprefix("Value error, ")
        return ApiError(400, f"{field}: {reason}" if field else reason, field or None)
    value = repr(worst.get("input"))
    if len(value) > LONGEST_VALUE:
        value = value[:LONGEST_VALUE] + "..."
    reason = message.removeprefix("Input ").replace(" after validation", "")
    return ApiError(400, f"{field}: {reason[0].lower()}{reason[1:]}, got {value}", field)


def _place(parts: Sequence[Any], body: Any) -> list[Any]:
    """Return the keys and indices among the parts of an error's place, without the names of forms
    that pydantic puts between them. The last one may be a key that is missing.
    """
    place = []
    for number, part in enumerate(parts, 1):
        is_key = isinstance(body, dict) and (part in body or number == len(parts))
        if is_key or (isinstance(body, list) and isinstance(part, int)):
            place.append(part)
            body = body.get(part) if isinstance(body, dict) else body[part]
    return place


def _printable(text: str) -> str:
    """Return a text that can be sent, also if it holds half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()[:LONGEST_VALUE]


def add_error_handlers(app: FastAPI) -> None:
    """Turn every exception of a route into an answer of this form."""

    @app.exception_handler(RequestValidationError)
    async def wrong_fields(request: Request, error: RequestValidationError) -> JSONResponse:
        return validation_error(error).response()

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        message = _printable(f"{request.method} {request.url.path}: {error.detail}")
        return ApiError(error.status_code, message).response(error.headers)

    async def other(request: Request, error: Exception) -> JSONResponse:
        return api_error_of(error).response()

    expected = (ApiError, ServerBusy, EngineStopped, UserError, TimeoutError)
    for kind in (*expected, RecursionError, UnicodeEncodeError, Exception):
        app.add_exception_handler(kind, other)
