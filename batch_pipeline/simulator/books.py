"""The simulator's own books: what was accepted and what was billed, whatever a client believes.

Tests compare a pipeline's ledger and report with these. Costs come from the simulator's own small
price table (`models`), not from the library that the pipeline uses.
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

from batch_pipeline.simulator import usage_report
from batch_pipeline.simulator.bills import (
    TOKEN_CLASSES,
    Bill,
    Ended,
    Untaken,
    add_to_total,
    write_messages,
)
from batch_pipeline.simulator.database import Database

_USD = Decimal(10) ** 12
_FAULT = "fault:"


def content_digest(params: dict[str, Any]) -> bytes:
    """sha256 of the params as JSON with sorted keys: the identity of a request's content."""
    return hashlib.sha256(orjson.dumps(params, option=orjson.OPT_SORT_KEYS)).digest()


def content_hash(params: dict[str, Any]) -> str:
    """`content_digest` as hexadecimal text, the key in `Books.contents`."""
    return content_digest(params).hex()


@dataclass(frozen=True)
class Content:
    """How often requests of one content were accepted, how often billed, and for how much.

    `billed_realtime` of the answers were billed in real time.
    """

    accepted: int
    billed: int
    cost_usd: Decimal
    billed_realtime: int = 0


class Books:
    """Counts per content and in total; every property reads the state of this moment."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.transaction() as connection:
            connection.execute(usage_report.SCHEMA)

    # Writing: by the simulator only.

    def accept(self, digests: Iterable[bytes]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO content (hash, accepted) VALUES (?, 1)"
                " ON CONFLICT (hash) DO UPDATE SET accepted = accepted + 1",
                ((digest,) for digest in digests),
            )

    def book(self, bill: Bill) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE content SET billed = billed + 1, billed_pico_usd = billed_pico_usd + ?"
                " WHERE hash = ?",
                bill.answers,
            )
            bill.write(connection)

    def end_message(self, digest: bytes, message: dict[str, Any] | None) -> None:
        """A request in real time came, and came to its end; None: nothing was billed."""
        if message is None:
            self._note_message(Ended(digest))
        else:
            self._note_message(Ended(digest, message["model"], message["usage"]))

    def miss_message(self, digest: bytes) -> None:
        """The answer to a request in real time, which was billed, may not have been taken."""
        self._note_message(Untaken(digest))

    def _note_message(self, note: Ended | Untaken) -> None:
        self._database.note(write_messages, note)

    def count_attempts(self, digests: Iterable[bytes]) -> None:
        """Requests of these contents came to their end, whatever it was."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE content SET attempts = attempts + 1 WHERE hash = ?",
                ((digest,) for digest in digests),
            )

    def attempts(self, digest: bytes) -> int:
        """How often requests of a content have come to their end so far."""
        with self._database.transaction() as connection:
            row = connection.execute("SELECT attempts FROM content WHERE hash = ?", (digest,))
            found = row.fetchone()
        return int(found[0]) if found else 0

    def count_fault(self, name: str, times: int = 1) -> None:
        self._add(f"{_FAULT}{name}", times)

    def count_rate_limited(self) -> None:
        """A message was refused, because a rate limit was reached."""
        self._database.note(_count_all, "rate_limited_messages")

    def count_foreign_batch(self) -> None:
        self._add("foreign_batches_created", 1)

    def touch_foreign(self, batch_id: str, action: str) -> None:
        """Somebody called cancel, delete or results for another tenant's batch."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO touch VALUES (?, ?, 1)"
                " ON CONFLICT (batch_id, action) DO UPDATE SET times = times + 1",
                (batch_id, action),
            )

    def count_batch(self, queued: int) -> None:
        """One more batch of ours accepted, after which `queued` of our requests wait or run."""
        with self._database.transaction() as connection:
            self._add("batches_created", 1)
            connection.execute(
                "INSERT INTO total VALUES ('highest_queue', ?1)"
                " ON CONFLICT (name) DO UPDATE SET value = max(value, ?1)",
                (queued,),
            )

    def _add(self, name: str, amount: int) -> None:
        with self._database.transaction() as connection:
            add_to_total(connection, name, amount)

    # Reading.

    @property
    def contents(self) -> dict[str, Content]:
        """Content hash (hexadecimal) → how often accepted and billed."""
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
        """Content hashes that cost money twice: empty where nothing was bought again."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT hash FROM content WHERE billed > 1")
            return [digest.hex() for (digest,) in rows]

    @property
    def bought_again(self) -> list[str]:
        """Content hashes that were billed in real time although an earlier answer was taken.

        An answer counts as taken unless its connection ended before it was sent, or before the
        second request after it (the client may not have put it down by then), or a fault kept it
        back. So this is empty where whatever was billed twice was in flight when its client died,
        or lost on its way. A client that is frozen, and given up, looks like one that lives.
        """
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT hash FROM content WHERE bought_again > 0")
            return [digest.hex() for (digest,) in rows]

    @property
    def batches_created(self) -> int:
        return self._total("batches_created")

    @property
    def rate_limited_messages(self) -> int:
        """Messages that were refused because a rate limit was reached."""
        return self._total("rate_limited_messages")

    @property
    def highest_queue(self) -> int:
        """The most requests of ours that were unfinished in batches at any one time."""
        return self._total("highest_queue")

    @property
    def foreign_batches_created(self) -> int:
        return self._total("foreign_batches_created")

    @property
    def foreign_touched(self) -> dict[str, int]:
        """Another tenant's batch → how often somebody tried to cancel or delete it."""
        return self._touches("action IN ('cancel', 'delete')")

    @property
    def foreign_read(self) -> dict[str, int]:
        """Another tenant's batch → how often its results were asked for, which harms nobody."""
        return self._touches("action = 'results'")

    @property
    def faults(self) -> dict[str, int]:
        """Faults that really happened: `<endpoint or section>.<kind>` → how often."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT name, value FROM total WHERE name LIKE ? ORDER BY name", (f"{_FAULT}%",)
            )
            return {name.removeprefix(_FAULT): value for name, value in rows}

    @property
    def billed_tokens(self) -> dict[str, int]:
        """Token class, as named in `usage` → tokens billed, both ways together."""
        return {name: self._total(f"billed_{name}") for name in TOKEN_CLASSES}

    @property
    def batch_cost_usd(self) -> Decimal:
        return self._total("billed_batch_pico_usd") / _USD

    @property
    def realtime_cost_usd(self) -> Decimal:
        return self._total("billed_realtime_pico_usd") / _USD

    def organisation_usage(self, query: Mapping[str, str], group_by: list[str]) -> dict[str, Any]:
        return usage_report.usage_page(self._database, query, group_by)

    def organisation_costs(self, query: Mapping[str, str], group_by: list[str]) -> dict[str, Any]:
        return usage_report.cost_page(self._database, query, group_by)

    def as_json(self, *, contents: bool) -> dict[str, Any]:
        """Everything for `GET /simulator/books`; amounts in USD as text, exact."""
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

    def _total(self, name: str) -> int:
        return self._sum("SELECT value FROM total WHERE name = ?", name)

    def _sum(self, query: str, *values: str) -> int:
        with self._database.transaction() as connection:
            row = connection.execute(query, values).fetchone()
        return int(row[0] or 0) if row else 0


def _count_all(connection: sqlite3.Connection, names: list[str]) -> None:
    for name, times in Counter(names).items():
        add_to_total(connection, name, times)
