"""JSON answers and API error bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.simulator.wire import ApiError, error_body


class Json(Response):
    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(content, status_code, headers)

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def error_response(request: Request, error: ApiError) -> Response:
    """The API's body for an error, with the request's id in it."""
    request_id = request.scope["state"]["request_id"]
    body = error_body(error.kind, error.message, request_id, error.details)
    return Json(body, error.status, error.headers)
