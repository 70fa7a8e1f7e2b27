"""The admin endpoints: an organisation's reports of usage and cost, and its limits of batches.

Any key reads those of its own organisation, where the API wants an admin's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.simulator.batches.store import BatchStore
from batch_pipeline.simulator.books.books import Books
from batch_pipeline.simulator.responses import Json
from batch_pipeline.simulator.wire import MAX_REQUESTS_PER_BATCH, invalid_request
from batch_pipeline.simulator.workspaces import workspace_of

_ORGANISATION = "/v1/organizations"
# The other groups of the API hold limits of messages, files and tools.
_GROUPS = ("batch",)
_REQUESTS_PER_MINUTE = 4_000

Handler = Callable[[Request], Awaitable[Response]]
Report = Callable[[str, Mapping[str, str], list[str]], dict[str, Any]]


class AdminEndpoints:
    """The handlers, by their paths."""

    def __init__(self, store: BatchStore, books: Books) -> None:
        self._store = store
        self.handlers: dict[str, Handler] = {
            f"{_ORGANISATION}/usage_report/messages": _reporting(books.organisation_usage),
            f"{_ORGANISATION}/cost_report": _reporting(books.organisation_costs),
            f"{_ORGANISATION}/rate_limits": self.rate_limits,
        }

    async def rate_limits(self, request: Request) -> Response:
        """The limits of batches; the limits of messages are in the headers of their answers."""
        group = request.query_params.get("group_type", "batch")
        if group not in _GROUPS:
            raise invalid_request(f"group_type: the simulator has {', '.join(_GROUPS)} alone")
        whose = workspace_of(request.headers)
        limits = {
            "enqueued_batch_requests": self._store.queue_limit(whose.organisation),
            "requests_per_minute": _REQUESTS_PER_MINUTE,
            "requests_per_batch": MAX_REQUESTS_PER_BATCH,
        }
        entry = {
            "type": "rate_limit",
            "id": f"rl_{whose.organisation_id}",
            "group": {"id": "rlg_batch", "type": "batch"},
            "limits": [{"type": name, "value": value} for name, value in limits.items()],
            "models": None,
        }
        return Json({"data": [entry], "next_page": None})


def _reporting(report: Report) -> Handler:
    async def reported(request: Request) -> Response:
        query, whose = request.query_params, workspace_of(request.headers)
        group_by = query.getlist("group_by[]")
        return Json(await run_sync(report, whose.organisation, query, group_by))

    return reported
