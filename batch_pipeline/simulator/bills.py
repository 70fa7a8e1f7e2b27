"""What answers cost: the bill of a batch, and those of messages in real time, many a second.

Belongs here: how a bill is gathered and written. What can be read of the books stands in `books`.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batch_pipeline.simulator import usage_report
from batch_pipeline.simulator.models import MODELS
from batch_pipeline.simulator.usage_report import ModelBill

TOKEN_CLASSES = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)


@dataclass
class Bill:
    """What one batch (or some real-time messages) cost, gathered answer by answer."""

    batch: bool
    answers: list[tuple[int, bytes]] = field(default_factory=list)  # (cost, content digest)
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKEN_CLASSES, 0))
    pico_usd: int = 0
    models: defaultdict[str, ModelBill] = field(default_factory=lambda: defaultdict(ModelBill))

    def add(self, digest: bytes, model: str, usage: dict[str, Any]) -> int:
        """Put an answer on the bill; returns its cost in picodollars."""
        cost = MODELS[model].cost_pico_usd(usage, batch=self.batch)
        self.models[MODELS[model].id].add(usage, cost)
        self.answers.append((cost, digest))
        for name in TOKEN_CLASSES:
            self.tokens[name] += usage[name]
        self.pico_usd += cost
        return cost

    def write(self, connection: sqlite3.Connection) -> None:
        """Add it to the totals and to the day's usage; contents are the caller's."""
        way = "batch" if self.batch else "realtime"
        usage_report.record(connection, self.models, batch=self.batch)
        add_to_total(connection, f"billed_{way}_requests", len(self.answers))
        add_to_total(connection, f"billed_{way}_pico_usd", self.pico_usd)
        for name, tokens in self.tokens.items():
            add_to_total(connection, f"billed_{name}", tokens)


@dataclass(frozen=True)
class Ended:
    """A message came to its end; without `usage` nothing was billed."""

    digest: bytes
    model: str = ""
    usage: dict[str, Any] | None = None


@dataclass(frozen=True)
class Untaken:
    """The answer to a billed message did not reach its client, or may not have."""

    digest: bytes


def write_messages(connection: sqlite3.Connection, notes: Sequence[Ended | Untaken]) -> None:
    """Book messages in the order in which things happened to them."""
    bill = Bill(batch=False)
    for note in notes:
        if isinstance(note, Untaken):
            connection.execute(
                "UPDATE content SET untaken = untaken + 1 WHERE hash = ?", (note.digest,)
            )
            continue
        billed = note.usage is not None
        cost = bill.add(note.digest, note.model, note.usage) if note.usage is not None else 0
        connection.execute(
            "INSERT INTO content"
            " (hash, accepted, attempts, billed, billed_pico_usd, billed_realtime)"
            " VALUES (?1, 1, 1, ?2, ?3, ?2) ON CONFLICT (hash) DO UPDATE SET"
            # Some answer before this one was taken, and still it is billed once more.
            " bought_again = bought_again + (?2 AND billed > untaken),"
            " accepted = accepted + 1, attempts = attempts + 1, billed = billed + ?2,"
            " billed_pico_usd = billed_pico_usd + ?3, billed_realtime = billed_realtime + ?2",
            (note.digest, billed, cost),
        )
    bill.write(connection)


def add_to_total(connection: sqlite3.Connection, name: str, amount: int) -> None:
    """Count something up by its name."""
    connection.execute(
        "INSERT INTO total VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = value + ?2",
        (name, amount),
    )
