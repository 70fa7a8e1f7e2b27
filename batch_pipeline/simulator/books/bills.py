"""Bills: the tokens and cost of a batch's answers, or of real-time messages.

Belongs here: how bills are summed and written into the database. `books` reads the sums.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batch_pipeline.simulator.books import usage_report
from batch_pipeline.simulator.books.usage_report import ModelBill
from batch_pipeline.simulator.models import MODELS, billed_pico_usd
from batch_pipeline.simulator.workspaces import Workspace

TOKEN_CLASSES = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)


@dataclass
class Bill:
    """The cost of one batch, or of some real-time messages; answers are added one by one."""

    batch: bool
    answers: list[tuple[int, bytes]] = field(default_factory=list)  # (cost, content digest)
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKEN_CLASSES, 0))
    pico_usd: int = 0
    models: defaultdict[str, ModelBill] = field(default_factory=lambda: defaultdict(ModelBill))

    def add(self, digest: bytes, model: str, usage: dict[str, Any]) -> int:
        """Add an answer; returns its cost in picodollars."""
        cost = billed_pico_usd(model, usage, batch=self.batch)
        self.models[MODELS[model].id].add(usage, cost)
        self.answers.append((cost, digest))
        for name in TOKEN_CLASSES:
            self.tokens[name] += usage[name]
        self.pico_usd += cost
        return cost

    def write(self, connection: sqlite3.Connection, workspace: Workspace) -> None:
        """Add the bill to the totals and the day's usage; the caller books the contents."""
        way = "batch" if self.batch else "realtime"
        usage_report.record(connection, workspace, self.models, batch=self.batch)
        add_to_total(connection, f"billed_{way}_requests", len(self.answers))
        add_to_total(connection, f"billed_{way}_pico_usd", self.pico_usd)
        for name, tokens in self.tokens.items():
            add_to_total(connection, f"billed_{name}", tokens)


@dataclass(frozen=True)
class Ended:
    """The end of a real-time message; `usage` is None where it was not billed."""

    digest: bytes
    workspace: Workspace
    model: str = ""
    usage: dict[str, Any] | None = None


@dataclass(frozen=True)
class Untaken:
    """The loss of an answer: a billed message whose client may not have received it."""

    digest: bytes


def write_messages(connection: sqlite3.Connection, notes: Sequence[Ended | Untaken]) -> None:
    """Book the ends of messages and their lost answers, in the order in which they happened."""
    bills: defaultdict[Workspace, Bill] = defaultdict(lambda: Bill(batch=False))
    for note in notes:
        if isinstance(note, Untaken):
            connection.execute(
                "UPDATE content SET untaken = untaken + 1 WHERE hash = ?", (note.digest,)
            )
            continue
        billed = note.usage is not None
        cost = 0
        if note.usage is not None:
            cost = bills[note.workspace].add(note.digest, note.model, note.usage)
        connection.execute(
            "INSERT INTO content"
            " (hash, accepted, attempts, billed, billed_pico_usd, billed_realtime)"
            " VALUES (?1, 1, 1, ?2, ?3, ?2) ON CONFLICT (hash) DO UPDATE SET"
            # Bought again: an earlier answer to this content was taken, and it is billed once more.
            " bought_again = bought_again + (?2 AND billed > untaken),"
            " accepted = accepted + 1, attempts = attempts + 1, billed = billed + ?2,"
            " billed_pico_usd = billed_pico_usd + ?3, billed_realtime = billed_realtime + ?2",
            (note.digest, billed, cost),
        )
    for workspace, bill in bills.items():
        bill.write(connection, workspace)


def add_to_total(connection: sqlite3.Connection, name: str, amount: int) -> None:
    """Add to a named total."""
    connection.execute(
        "INSERT INTO total VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = value + ?2",
        (name, amount),
    )
