"""Reads an organisation's reports of usage and cost, and its queue limit, with an admin key.

Belongs here: the endpoints, their pages, and their rows as plain values. An admin key allows more;
this module only reads these. `flow.costs.billing_check` compares the reports,
`flow.organisation_limits` keeps the limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import anthropic
import httpx2

from batch_pipeline.api import credentials, tls
from batch_pipeline.api.client import (
    CONNECT_TIMEOUT,
    ORGANISATION_HEADER,
    READ_TIMEOUT,
    SIMULATOR_HEADER,
)
from batch_pipeline.api.failures import failures, json_of
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import UsageError

USAGE_REPORT = "/v1/organizations/usage_report/messages"
COST_REPORT = "/v1/organizations/cost_report"
_BATCHES: Final = "batch"
# The type of the limit among those of batches.
QUEUE_LIMIT = "enqueued_batch_requests"
LIMIT_SECONDS = 10.0
# The reports' amounts are in cents.
CENT = Decimal("0.01")


@dataclass(frozen=True)
class DayUsage:
    """Tokens of one model and service tier (`batch`, `standard` …) on a day."""

    model: str
    service_tier: str
    input_tokens: int
    output_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    cache_read_tokens: int


@dataclass(frozen=True)
class DayCost:
    """USD of one model and service tier on a day, all kinds of tokens together."""

    model: str
    service_tier: str
    usd: Decimal


class AdminApi:
    """A client of one organisation; the variable of this name holds its admin key.

    `simulated` and `organisation_id` are what the last answer said.
    """

    def __init__(
        self, variable: str = credentials.ADMIN_KEY, *, base_url: str | None = None
    ) -> None:
        key = credentials.secret(variable)
        if key is None:
            raise UsageError(
                f"No admin key: set {variable}. The reports of a whole organisation "
                "are not shown to the ordinary key of a workspace; an admin makes one in the API's "
                "console."
            )
        self.simulated = False
        self.organisation_id: str | None = None
        hooks = {"response": [self._note_headers]}
        self._client = anthropic.Anthropic(
            base_url=credentials.base_url(base_url),
            api_key=key,
            timeout=httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
            http_client=anthropic.DefaultHttpxClient(
                event_hooks=hooks, verify=tls.context(), follow_redirects=False
            ),
        )
        credentials.say_if_unencrypted(self._client.base_url)

    def usage(self, day: date) -> list[DayUsage]:
        """The organisation's tokens on a day (UTC), by model and tier."""
        found = []
        for row in self._rows(USAGE_REPORT, day, ["model", "service_tier"]):
            created = row.get("cache_creation") or {}
            found.append(
                DayUsage(
                    model=str(row.get("model")),
                    service_tier=str(row.get("service_tier")),
                    input_tokens=int(row.get("uncached_input_tokens") or 0),
                    output_tokens=int(row.get("output_tokens") or 0),
                    cache_write_5m_tokens=int(created.get("ephemeral_5m_input_tokens") or 0),
                    cache_write_1h_tokens=int(created.get("ephemeral_1h_input_tokens") or 0),
                    cache_read_tokens=int(row.get("cache_read_input_tokens") or 0),
                )
            )
        return found

    def costs(self, day: date) -> list[DayCost]:
        """The cost of the organisation's tokens on a day (UTC), by model and tier."""
        sums: dict[tuple[str, str], Decimal] = {}
        for row in self._rows(COST_REPORT, day, ["description"]):
            if row.get("cost_type") not in (None, "tokens"):
                continue
            kind = (str(row.get("model")), str(row.get("service_tier")))
            try:
                amount = Decimal(str(row["amount"])) * CENT
            except (KeyError, InvalidOperation) as error:
                raise ApiFailure(200, None, None, "a cost report that cannot be read") from error
            sums[kind] = sums.get(kind, Decimal(0)) + amount
        return [DayCost(model, tier, usd) for (model, tier), usd in sums.items()]

    def queue_limit(self) -> int | None:
        """The most requests that the organisation may have in the queue of batches; None: the API
        names no such limit."""
        # Nights do not wait for it: asked once, and for a few seconds.
        client = self._client.with_options(max_retries=0, timeout=LIMIT_SECONDS)
        with failures():
            for entry in client.organization.rate_limits.list(group_type=_BATCHES):
                for limit in entry.limits or ():
                    if limit.type == QUEUE_LIMIT:
                        return int(limit.value)
        return None

    def _rows(self, path: str, day: date, group_by: list[str]) -> Iterator[Mapping[str, Any]]:
        begin = datetime.combine(day, time(), UTC)
        query: dict[str, object] = {
            "starting_at": _rfc3339(begin),
            "ending_at": _rfc3339(begin + timedelta(days=1)),
            "bucket_width": "1d",
            "group_by": group_by,
        }
        while True:
            with failures():
                answer = self._client.get(path, cast_to=httpx2.Response, options={"params": query})
                page = json_of(answer)
            for bucket in page.get("data") or ():
                yield from bucket.get("results") or ()
            if not page.get("has_more"):
                return
            query["page"] = page["next_page"]

    def _note_headers(self, response: httpx2.Response) -> None:
        self.simulated = SIMULATOR_HEADER in response.headers
        named = response.headers.get(ORGANISATION_HEADER)
        self.organisation_id = named or self.organisation_id


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
