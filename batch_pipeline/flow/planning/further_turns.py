"""Further turns: what a request says after its row's prompt, because of an answer that it had.

Two answers are not the end of it: one that broke the schema is sent back with what is wrong with it
(`retry.explain`), and one that the API paused is sent back for the API to go on. Here the turns are
made, from the unit's answers. Whether an answer is one of the two is decided in `variants`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow.answers.messages import as_json
from batch_pipeline.flow.answers.outcomes import EXPLICABLE, PAUSE_TURN, Status
from batch_pipeline.flow.dataset.requests.further import Further
from batch_pipeline.flow.planning.variants import (
    IS_ESCALATED,
    Asked,
    container_bytes,
    further_bytes,
)

if TYPE_CHECKING:
    import duckdb

# A message of the validator may quote the whole answer.
MESSAGE_CHARACTERS = 1_000
# Units whose turns are held in memory at once: what the API's own tools have found may be long.
_UNITS_AT_ONCE = 100

# The answers of open units that are sent back. They are those since the last redrive, and where a
# stronger model is asked, its own: it does not go on with what another one has begun. No temporary
# table: these are of one cursor alone.
MAKE_SAID = f"""
    CREATE TABLE said AS
        SELECT unit, attempt, turn, container, content, error_message
        FROM answers SEMI JOIN open_items USING (unit)
        LEFT JOIN units_before USING (unit) LEFT JOIN tried USING (unit)
        WHERE counted AND NOT redriven AND NOT final AND escalate IS NULL
        AND attempt > coalesce(units_before.attempts, 0)
        AND (tried.state IS NULL OR {IS_ESCALATED}) AND status = '{Status.INVALID_OUTPUT}'
        AND (turn IS NOT NULL OR error_type IN {EXPLICABLE})
"""  # noqa: S608  # made of constants
_PAUSED = ',{"role":"assistant","content":%s}'
_SAID = """
    SELECT unit, turn, container, content, error_message FROM said
    WHERE unit IN (SELECT unit FROM asked_now) ORDER BY unit, attempt
"""
# What is added to the columns of an open unit, those of a manifest and whether a turn explains.
COLUMNS = ("turns", "container", "continuations", "explained")
_TYPES = (pa.string(), pa.string(), pa.int64(), pa.bool_())


@dataclass(frozen=True)
class Said:
    """An answer that is sent back: `paused` are its blocks as JSON, where the API is to go on;
    else its text is, with the `message` of what is wrong with it."""

    paused: str | None
    container: str | None
    text: str | None = None
    message: str | None = None


def pause_of(message: object) -> tuple[str | None, str | None]:
    """The blocks of a paused message as JSON, and the id of the API's container in which it goes
    on; the first is None where it did not pause, or has nothing to go on from."""
    if not isinstance(message, dict) or message.get("stop_reason") != PAUSE_TURN:
        return None, None
    content, container = message.get("content"), message.get("container")
    blocks = content if isinstance(content, list) else []
    if not all(isinstance(block, dict) for block in blocks):
        return None, None
    # The API gives texts that it does not take back: empty ones.
    blocks = [block for block in blocks if block.get("type") != "text" or block.get("text")]
    if not blocks:
        return None, None
    name = container.get("id") if isinstance(container, dict) else None
    return as_json(blocks), name if isinstance(name, str) else None


def explanation(text: str, message: str) -> str:
    """The two turns that send an answer back with what is wrong with it."""
    said = (
        f"Your answer does not fit the required format: {message[:MESSAGE_CHARACTERS]}. "
        "Answer again, with the corrected JSON alone."
    )
    turns = ({"role": "assistant", "content": text}, {"role": "user", "content": said})
    return "".join("," + as_json(turn) for turn in turns)


def explanation_bytes(text: str, message: str) -> int:
    """The bytes that an explanation adds to a request."""
    return further_bytes(explanation(text, message), None)


def pause_bytes(turn: str | None, container: str | None) -> int:
    """The bytes that a paused answer adds to a request; 0: there is none to go on from."""
    return 0 if turn is None else further_bytes(_PAUSED % turn, container)


def turns_of(said: Sequence[Said]) -> str:
    """The turns after the row's own, given the answers in their order.

    Paused parts of one answer are one turn of the assistant. An answer that is explained is sent as
    its text: what was paused before it is part of that text.
    """
    turns, paused = "", []
    for each in said:
        if each.paused is not None:
            paused.append(each.paused[1:-1])
        else:
            turns, paused = explanation(each.text or "", each.message or ""), []
    if paused:
        turns += _PAUSED % ("[" + ",".join(paused) + "]")
    return turns


def paused_blocks(turns: str | None) -> list[Any]:
    """The blocks that a request with these turns has the API go on from."""
    last = orjson.loads(f"[{turns[1:]}]")[-1] if turns else {}
    return last["content"] if last.get("role") == "assistant" else []


def of_requests(manifest: pa.Table) -> dict[int, Further]:
    """The further turns of a manifest's requests, by their numbers."""
    turns = manifest.column("turns")
    if turns.null_count == len(turns):
        return {}
    pairs = zip(turns.to_pylist(), manifest.column("container").to_pylist(), strict=True)
    return {
        number: Further(text.encode(), container)
        for number, (text, container) in enumerate(pairs)
        if text is not None
    }


class Requests:
    """How the requests of a manifest were asked, by their numbers; `variants` are their names."""

    def __init__(self, manifest: pa.Table) -> None:
        self.variants: list[str | None] = manifest.column("variant").to_pylist()
        names = ("route", "request_bytes", "continuations", "container")
        columns = (manifest.column(name).to_pylist() for name in names)
        self._routes, self._sizes, self._continuations, self._containers = columns
        self._turns = pc.binary_length(manifest.column("turns")).to_pylist()

    def __getitem__(self, number: int) -> Asked:
        turns = self._turns[number]
        return Asked(
            self.variants[number],
            self._routes[number],
            self._sizes[number],
            0 if turns is None else turns + container_bytes(self._containers[number]),
            self._continuations[number] or 0,
        )


def given_to(
    connection: duckdb.DuckDBPyConnection, units: Iterator[pa.Table]
) -> Iterator[pa.Table]:
    """Open units with the columns `COLUMNS`, from the table `said`."""
    # A cursor of its own: the units are still being read from the connection.
    with connection.cursor() as cursor:
        every = cursor.sql("SELECT DISTINCT unit FROM said").to_arrow_table().column("unit")
        for table in units:
            for some, concerned in _cut(table, pc.is_in(table.column("unit"), every)):
                yield _with(some, _said(cursor, concerned) if len(concerned) else {})


def _cut(units: pa.Table, sent_back: pa.ChunkedArray) -> Iterator[tuple[pa.Table, pa.ChunkedArray]]:
    """Parts of the units, with those among each that have further turns, of which it has few."""
    places = np.flatnonzero(sent_back.to_numpy())
    bounds = [0, *places[_UNITS_AT_ONCE::_UNITS_AT_ONCE].tolist(), units.num_rows]
    for start, end in pairwise(bounds):
        some = units.slice(start, end - start)
        yield some, some.column("unit").filter(sent_back.slice(start, end - start))


def _said(cursor: duckdb.DuckDBPyConnection, units: pa.ChunkedArray) -> dict[str, list[Said]]:
    cursor.register("asked_now", pa.table({"unit": units}))
    found: dict[str, list[Said]] = {}
    for unit, *said in cursor.execute(_SAID).fetchall():
        found.setdefault(unit, []).append(Said(*said))
    return found


def _with(units: pa.Table, said: Mapping[str, Sequence[Said]]) -> pa.Table:
    columns: Sequence[Any] = [pa.nulls(units.num_rows, kind) for kind in _TYPES]
    if said:
        none = (None,) * len(COLUMNS)
        rows = (
            _row(said[unit]) if unit in said else none for unit in units.column("unit").to_pylist()
        )
        columns = [
            pa.array(column, kind)
            for column, kind in zip(zip(*rows, strict=True), _TYPES, strict=True)
        ]
    for name, column in zip(COLUMNS, columns, strict=True):
        units = units.append_column(name, column)
    return units


def _row(said: Sequence[Said]) -> tuple[str, str | None, int, bool]:
    """Values of `COLUMNS` for a unit with these answers."""
    containers = [each.container for each in said if each.container is not None]
    paused = sum(each.paused is not None for each in said)
    container = containers[-1] if containers else None
    return turns_of(said), container, paused, paused < len(said)
