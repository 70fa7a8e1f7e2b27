"""`show`: everything that is known of one item of a night, during the night and after it.

Row, request, each attempt with the API's own lines, the result, a dead letter, and where a request
waits: from the snapshot, the answer files and the ledger. Nothing is written, the API is not asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
import pyarrow.compute as pc

from batch_pipeline.errors import UsageError
from batch_pipeline.flow import paths
from batch_pipeline.flow.answers import answers as night_answers
from batch_pipeline.flow.answers.schemas import DEAD_LETTER_SCHEMA, RESULTS_SCHEMA
from batch_pipeline.flow.dataset.requests import rendered
from batch_pipeline.flow.dataset.requests.declaration import Declaration, parse_custom_id
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.inspect import snapshot_rows, where_it_waits
from batch_pipeline.flow.inspect.preview import no_such_item
from batch_pipeline.flow.inspect.snapshot_rows import SnapshotItem
from batch_pipeline.flow.pilot.shown_items import how_asked
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.realtime.journal import read_lines
from batch_pipeline.flow.results.lines import whole_lines
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, snapshots
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.pricing.tokens import TOKENS

_ATTEMPT = (
    "attempt", "variant", "mode", "model", "batch_id", "custom_id", "status", "stop_reason",
    "error_type", "error_message", "content", "parsed", "details", *TOKENS, "cost_usd", "final",
    "redriven", "collected_at",
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """What is known of an item. `why_not_sent` is why its row makes no request of its own.

    `attempts` are all answers to it, oldest first, each with the API's own line in `raw` (None:
    `raw_note` says why not). `result` is its row of the results, `dead_letter` its dead letter,
    `waits` where its request is now, in words (None: it is settled).
    """

    job: str
    partition: str
    account: str
    simulated: bool
    id: str
    source: str | None
    row: int | None
    input: Any
    unit: str | None
    fingerprint: str | None
    route: str | None
    request: dict[str, Any] | None
    why_not_sent: str | None
    attempts: tuple[dict[str, Any], ...]
    result: dict[str, Any] | None
    dead_letter: dict[str, Any] | None
    waits: str | None
    notes: tuple[str, ...]

    @property
    def cost_usd(self) -> Decimal:
        """What all attempts have cost; where one request serves several items, all of it."""
        return sum((each["cost_usd"] or Decimal(0) for each in self.attempts), Decimal(0))

    def as_json(self) -> dict[str, Any]:
        document = {**self.__dict__, "notes": list(self.notes), "cost_usd": self.cost_usd}
        found: dict[str, Any] = _plain(document)
        return found


def show(pipeline: Pipeline, spec: JobSpec, partition: str, item_id: str) -> Item:
    """All that is known of an item; UsageError where the night, or the item, is not known."""
    with pipeline.ledger.read() as connection:
        night = nights.shown_night(connection, spec.name, partition)
        if night is None or night.snapshot_id is None:
            raise UsageError(
                f"{spec.name} {partition} has no input yet; `batch-pipeline preview {spec.name} "
                f"--partition {partition} --id …` shows what would be asked."
            )
        snapshot = snapshots.get_snapshot(connection, night.snapshot_id)
        simulated = accounts.get_account(connection, night.owner).simulated
    item, notes = None, []
    if night.pruned_at is None:
        item = snapshot_rows.by_id(pipeline.files, snapshot, item_id)
        if item is None:
            raise no_such_item(pipeline, spec, partition, snapshot, item_id)
    else:
        notes.append("the night was pruned: row, request and the API's own lines are gone")
    result = _row(pipeline, paths.results(spec.name, partition), RESULTS_SCHEMA, item_id)
    if item is None and result is None:
        raise UsageError(f"{spec.name} {partition} has no item {item_id!r} in its results.")
    attempts = _attempts(pipeline, night, snapshot, item_id, None if item is None else item.unit)
    settled = result is not None or (item is not None and item.status is not None)
    waits = None if settled else where_it_waits.of(pipeline, spec, night, item)
    declaration = Declaration.from_json(snapshot.declaration)
    if item is not None and item.kept_from is not None:
        notes.append("its answer was bought under a former declaration, and is kept")
    return Item(
        job=spec.name,
        partition=partition,
        account=night.owner,
        simulated=simulated,
        id=item_id,
        source=None if item is None else item.source,
        row=None if item is None else item.row,
        input=None if item is None else orjson.loads(item.input),
        unit=None if item is None else item.unit,
        fingerprint=None if item is None else item.fingerprint,
        route=None if item is None else item.route,
        request=None if item is None else _request(declaration, item),
        why_not_sent=None if item is None else item.why_not_sent,
        attempts=attempts,
        result=result,
        dead_letter=_row(
            pipeline, paths.dead_letter(spec.name, partition), DEAD_LETTER_SCHEMA, item_id
        ),
        waits=waits,
        notes=tuple(notes),
    )


def _request(declaration: Declaration, item: SnapshotItem) -> dict[str, Any] | None:
    """The request of a row as its route declares it; None: it makes none."""
    if item.status is not None:
        return None
    builder = RequestBuilder(declaration.by_route().get(item.route, declaration))
    return rendered.of_row(builder, item.as_input)


def _row(pipeline: Pipeline, folder: str, schema: Any, item_id: str) -> dict[str, Any] | None:
    files = pipeline.files.list(folder, ".parquet")
    if not files:
        return None
    found = pipeline.files.dataset(files, schema).to_table(filter=pc.field("id") == item_id)
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows[0] if rows else None


def _attempts(
    pipeline: Pipeline, night: Night, snapshot: Snapshot, item_id: str, unit: str | None
) -> tuple[dict[str, Any], ...]:
    """All answers to an item: those to its unit, and those that were billed to its id before."""
    with pipeline.ledger.read() as connection:
        answered = night_answers.of_night(connection, night, snapshot)
        every = submissions.of_night(connection, night.id)
    by_token = {each.token: each for each in every}
    query = f"""
        SELECT {", ".join(_ATTEMPT)} FROM answers WHERE unit = $unit OR id = $id
        ORDER BY collected_at, attempt
    """  # noqa: S608  # columns of ours
    there = night_answers.still_there(pipeline.files, night, answered.files)
    files = night_answers.NightAnswers(there, answered.redriven, answered.overlaid)
    with night_answers.tables(pipeline.files, files, {}) as connection:
        connection.execute(query, {"unit": unit or "", "id": item_id})
        rows = [dict(zip(_ATTEMPT, row, strict=True)) for row in connection.fetchall()]
    for row in rows:
        row["asked"] = how_asked(row["variant"], row["model"], row["mode"])
        row["raw"], row["raw_note"] = _raw(pipeline, night, row["custom_id"], by_token)
    return tuple(rows)


def _raw(
    pipeline: Pipeline, night: Night, custom_id: str | None, by_token: dict[str, Submission]
) -> tuple[dict[str, Any] | None, str | None]:
    """The API's own line of an answer, or why there is none."""
    known = parse_custom_id(custom_id)
    if custom_id is None or known is None:
        return None, "it was copied from another night's answer"
    submission = by_token.get(known[0])
    folder = paths.raw_realtime(night.job, night.partition)
    blocks: Iterator[bytes] = read_lines(pipeline.files, folder, known[0])
    if submission is not None and submission.batch_id is not None:
        # Lines that could not be read at first have a file of their own, `-rest`.
        named = f"{paths.raw(night.job, night.partition)}/{submission.batch_id}*.jsonl.zst"
        files = pipeline.files.glob(named)
        blocks = (b for path in files for b in whole_lines(pipeline.files.decompressed(path)))
    # The id is in the line as it is: it has letters, digits and `_` alone.
    needle = custom_id.encode()
    for block in blocks:
        if needle in block:
            for line in block.splitlines():
                if needle in line and (found := orjson.loads(line))["custom_id"] == custom_id:
                    return found, None
    return None, "the API's own lines are not in the home any more"


def _plain(value: Any) -> Any:
    """A value as JSON has it: amounts as numbers, times as texts."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
