"""The simulator's books: which contents were accepted and billed, how often, for how much.

Tests compare a pipeline's ledger and report with these. Costs come from the simulator's own price
table (`models`), not from the library that the pipeline uses.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from batch_pipeline.simulator.books import usage_report
from batch_pipeline.simulator.books.bills import (
    TOKEN_CLASSES,
    Bill,
    Ended,
    Untaken,
    add_to_total,
    write_messages,
)
from batch_pipeline.simulator.database import Database
from batch_pipeline.simulator.workspaces import Workspace

_USD = Decimal(10) ** 12
_FAULT = "fault:"
_BATCHES = "batches:"
_HIGHEST_QUEUE = "highest_queue:"


def content_digest(params: dict[str, Any]) -> bytes:
    """sha256 of the params as JSON with sorted keys: the identity of a request's content.

    Cache marks are no content, nor that texts are split into blocks for them: the same request
    with and without them is bought twice.
    """
    raw = orjson.dumps(params, option=orjson.OPT_SORT_KEYS)
    if b'"cache_control"' in raw:
        raw = orjson.dumps(_unmarked(params), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(raw).digest()


def _unmarked(params: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in params.items() if name != "cache_control"}
    if isinstance(tools := params.get("tools"), list):
        plain["tools"] = [_without_mark(tool) for tool in tools]
    if "system" in params:
        plain["system"] = _joined(params["system"])
    if isinstance(messages := params.get("messages"), list):
        plain["messages"] = [
            {**message, "content": _joined(message.get("content"))}
            if isinstance(message, dict)
            else message
            for message in messages
        ]
    return plain


def _joined(content: Any) -> Any:
    """Blocks of text alone as one text; other content without marks."""
    if not isinstance(content, list):
        return content
    blocks = [_without_mark(block) for block in content]
    if all(isinstance(b, dict) and b.keys() == {"type", "text"} for b in blocks):
        return "".join(str(block["text"]) for block in blocks)
    return blocks


def _without_mark(block: Any) -> Any:
    if not isinstance(block, dict):
        return block
    return {name: value for name, value in block.items() if name != "cache_control"}


def content_hash(params: dict[str, Any]) -> str:
    """`content_digest` as hexadecimal text, the key in `Books.contents`."""
    return content_digest(params).hex()


@dataclass(frozen=True)
class Content:
    """Requests of one content: how many were accepted and billed, and the cost in USD.

    `billed_realtime` counts those of the billed ones that were real-time messages.
    """

    accepted: int
    billed: int
    cost_usd: Decimal
    billed_realtime: int = 0


class Books:
    """Counts for each content and in total; every property reads the present state."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.transaction() as connection:
            usage_report.prepare(connection)

    # Writing, for the simulator alone.

    def accept(self, digests: Iterable[bytes]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO content (hash, accepted) VALUES (?, 1)"
                " ON CONFLICT (hash) DO UPDATE SET accepted = accepted + 1",
                ((digest,) for digest in digests),
            )

    def book(self, bill: Bill, workspace: Workspace) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE content SET billed = billed + 1, billed_pico_usd = billed_pico_usd + ?"
                " WHERE hash = ?",
                bill.answers,
            )
            bill.write(connection, workspace)

    def end_message(
        self, digest: bytes, workspace: Workspace, message: dict[str, Any] | None
    ) -> None:
        """Book a real-time message that has ended; None: it was not billed."""
        if message is None:
            self._note_message(Ended(digest, workspace))
        else:
            self._note_message(Ended(digest, workspace, message["model"], message["usage"]))

    def miss_message(self, digest: bytes) -> None:
        """Book that the answer to a billed real-time message may not have reached its client."""
        self._note_message(Untaken(digest))

    def _note_message(self, note: Ended | Untaken) -> None:
        self._database.note(write_messages, note)

    def count_attempts(self, digests: Iterable[bytes]) -> None:
        """Count one ended request for each of these contents, with any result."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE content SET attempts = attempts + 1 WHERE hash = ?",
                ((digest,) for digest in digests),
            )

    def attempts(self, digest: bytes) -> int:
        """The number of ended requests of a content."""
        with self._database.transaction() as connection:
            row = connection.execute("SELECT attempts FROM content WHERE hash = ?", (digest,))
            found = row.fetchone()
        return int(found[0]) if found else 0

    def count_fault(self, name: str, times: int = 1) -> None:
        self._add(f"{_FAULT}{name}", times)

    def count_rate_limited(self) -> None:
        """Count a message that a rate limit refused."""
        self._database.note(_count_all, "rate_limited_messages")

    def count_foreign_batch(self) -> None:
        self._add("foreign_batches_created", 1)

    def touch_foreign(self, batch_id: str, action: str) -> None:
        """Count a cancel, delete or results call for another tenant's batch."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO touch VALUES (?, ?, 1)"
                " ON CONFLICT (batch_id, action) DO UPDATE SET times = times + 1",
                (batch_id, action),
            )

    def count_batch(self, workspace: Workspace, of_organisation: int, of_all: int) -> None:
        """Count an accepted batch, with which `of_organisation` requests of its organisation are
        unfinished, and `of_all` requests of all."""
        with self._database.transaction() as connection:
            self._add("batches_created", 1)
            self._add(f"{_BATCHES}{workspace}", 1)
            highest = {
                "highest_queue": of_all,
                f"{_HIGHEST_QUEUE}{workspace.organisation}": of_organisation,
            }
            connection.executemany(
                "INSERT INTO total VALUES (?1, ?2)"
                " ON CONFLICT (name) DO UPDATE SET value = max(value, ?2)",
                highest.items(),
            )

    def _add(self, name: str, amount: int) -> None:
        with self._database.transaction() as connection:
            add_to_total(connection, name, amount)

    # Reading.

    @property
    def contents(self) -> dict[str, Content]:
        """Content hash (hexadecimal) → its counts."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT hash, accepted, billed, billed_pico_usd, billed_realtime FROM content"
            )
            return {
                digest.hex(): Content(accepted, billed, pico_usd / _USD, realtime)
                for digest, accepted, billed, pico_usd, realtime in rows
            }

    @property
    def accepted_requests(self) -> int:
        return self._sum("SELECT sum(accepted) FROM content")

    @property
    def billed_requests(self) -> int:
        return self._sum("SELECT sum(billed) FROM content")

    @property
    def billed_more_than_once(self) -> list[str]:
        """Hashes of contents that were billed more than once."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT hash FROM content WHERE billed > 1")
            return [digest.hex() for (digest,) in rows]

    @property
    def bought_again(self) -> list[str]:
        """Hashes of contents billed in real time although the client had taken an earlier answer.

        An answer counts as taken, unless a fault kept it back, or its connection ended before the
        answer was sent or before the second request after it: until then the client may not have
        stored the answer. So contents that were billed twice because their client died during the
        call, or because the answer was lost, are not listed here.
        """
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT hash FROM content WHERE bought_again > 0")
            return [digest.hex() for (digest,) in rows]

    @property
    def cost_by_model(self) -> dict[tuple[str, bool], Decimal]:
        """USD billed for each model, and whether in batches."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT model, service_tier, sum(pico_usd) FROM usage GROUP BY 1, 2"
            )
            return {(model, tier == "batch"): pico / _USD for model, tier, pico in rows}

    @property
    def batches_created(self) -> int:
        return self._total("batches_created")

    @property
    def rate_limited_messages(self) -> int:
        """Messages that a rate limit refused."""
        return self._total("rate_limited_messages")

    @property
    def highest_queue(self) -> int:
        """The largest number of our requests in unfinished batches at one time."""
        return self._total("highest_queue")

    def highest_queue_of(self, organisation: str) -> int:
        """The largest number of our requests in an organisation's unfinished batches."""
        return self._total(f"{_HIGHEST_QUEUE}{organisation}")

    @property
    def batches_by_workspace(self) -> dict[str, int]:
        """`WORKSPACE/ORGANISATION` → accepted batches."""
        return self._totals(_BATCHES)

    @property
    def cost_by_workspace(self) -> dict[str, Decimal]:
        """`WORKSPACE/ORGANISATION` → USD billed, in batches and in real time."""
        with self._database.transaction() as connection:
            return {name: pico / _USD for name, pico in usage_report.by_workspace(connection)}

    @property
    def foreign_batches_created(self) -> int:
        return self._total("foreign_batches_created")

    @property
    def foreign_touched(self) -> dict[str, int]:
        """Id of another tenant's batch → calls to cancel or delete it."""
        return self._touches("action IN ('cancel', 'delete')")

    @property
    def foreign_read(self) -> dict[str, int]:
        """Id of another tenant's batch → calls for its results, which do no harm."""
        return self._touches("action = 'results'")

    @property
    def faults(self) -> dict[str, int]:
        """Number of faults that happened, by `<endpoint or section>.<kind>`."""
        return self._totals(_FAULT)

    @property
    def billed_tokens(self) -> dict[str, int]:
        """Billed tokens of batches and messages, by class as named in `usage`."""
        return {name: self._total(f"billed_{name}") for name in TOKEN_CLASSES}

    @property
    def batch_cost_usd(self) -> Decimal:
        return self._total("billed_batch_pico_usd") / _USD

    @property
    def realtime_cost_usd(self) -> Decimal:
        return self._total("billed_realtime_pico_usd") / _USD

    def organisation_usage(
        self, organisation: str, query: Mapping[str, str], group_by: list[str]
    ) -> dict[str, Any]:
        return usage_report.usage_page(self._database, organisation, query, group_by)

    def organisation_costs(
        self, organisation: str, query: Mapping[str, str], group_by: list[str]
    ) -> dict[str, Any]:
        return usage_report.cost_page(self._database, organisation, query, group_by)

    def as_json(self, *, contents: bool) -> dict[str, Any]:
        """The answer to `GET /simulator/books`; amounts are USD as exact text."""
        summary: dict[str, Any] = {
            "batches_created": self.batches_created,
            "highest_queue": self.highest_queue,
            "accepted_requests": self.accepted_requests,
            "billed_requests": self.billed_requests,
            "billed_batch_requests": self._total("billed_batch_requests"),
            "billed_realtime_requests": self._total("billed_realtime_requests"),
            "rate_limited_messages": self.rate_limited_messages,
            "billed_more_than_once": self.billed_more_than_once,
            "bought_again": self.bought_again,
            "billed_tokens": self.billed_tokens,
            "batch_cost_usd": str(self.batch_cost_usd),
            "realtime_cost_usd": str(self.realtime_cost_usd),
            "foreign_batches_created": self.foreign_batches_created,
            "foreign_touched": self.foreign_touched,
            "foreign_read": self.foreign_read,
            "faults": self.faults,
            "batches_by_workspace": self.batches_by_workspace,
            "cost_usd_by_workspace": {
                name: str(usd) for name, usd in self.cost_by_workspace.items()
            },
            "highest_queue_by_organisation": self._totals(_HIGHEST_QUEUE),
        }
        if contents:
            summary["contents"] = {
                digest: {
                    "accepted": content.accepted,
                    "billed": content.billed,
                    "billed_realtime": content.billed_realtime,
                    "cost_usd": str(content.cost_usd),
                }
                for digest, content in self.contents.items()
            }
        return summary

    def _touches(self, which: str) -> dict[str, int]:
        with self._database.transaction() as connection:
            query = f"SELECT batch_id, sum(times) FROM touch WHERE {which} GROUP BY batch_id"  # noqa: S608  # constants above
            return dict(connection.execute(query).fetchall())

    def _totals(self, prefix: str) -> dict[str, int]:
        """Totals whose names begin with a prefix, by the rest of their names."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT name, value FROM total WHERE substr(name, 1, ?) = ? ORDER BY name",
                (len(prefix), prefix),
            )
            return {name.removeprefix(prefix): value for name, value in rows}

    def _total(self, name: str) -> int:
        return self._sum("SELECT value FROM total WHERE name = ?", name)

    def _sum(self, query: str, *values: str) -> int:
        with self._database.transaction() as connection:
            row = connection.execute(query, values).fetchone()
        return int(row[0] or 0) if row else 0


def _count_all(connection: sqlite3.Connection, names: list[str]) -> None:
    for name, times in Counter(names).items():
        add_to_total(connection, name, times)
