"""`preview`: requests as the API gets them, their tokens and cost, before anything is sent.

Rows come from the night's snapshot where it was taken as the job is declared now, else the first
rows of the input are read. Of tables only small ones are read whole, of folders of documents none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import (
    AccountError,
    ApiError,
    InputDataError,
    NoCredentialsError,
    UsageError,
)
from batch_pipeline.flow.costs import estimate
from batch_pipeline.flow.costs.tokens import Tokens, tokens_without_api
from batch_pipeline.flow.dataset.documents.declared import document_input
from batch_pipeline.flow.dataset.documents.opening import DocumentOpener
from batch_pipeline.flow.dataset.documents.reference import DocumentChangedError
from batch_pipeline.flow.dataset.reading.files import Kind, Sources
from batch_pipeline.flow.dataset.requests import rendered
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.gates.prices import price_for, price_of_variant, stated_prices
from batch_pipeline.flow.looking import first_rows, snapshot_rows
from batch_pipeline.flow.looking.snapshot_rows import SnapshotItem
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, snapshots
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.pricing.documents import PAGE_TOKENS
from batch_pipeline.pricing.prices import MODES, Mode
from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.wording import usd

COUNTED = "counted by the API"
# Tables up to this size are read whole, for what all of it would cost.
READ_WHOLE_BYTES = 16 << 20
# Files of many rows; each other one is a row.
_TABLES = (Kind.PARQUET, Kind.CSV, Kind.JSONL, Kind.JSON)


@dataclass(frozen=True)
class Cost:
    """USD of a request, or of a night, each way."""

    batch: Decimal
    realtime: Decimal

    def as_json(self) -> dict[str, float]:
        return {f"{mode}_usd": round(float(getattr(self, mode)), 8) for mode in MODES}


@dataclass(frozen=True)
class Rendered:
    """A row and its request; `request` has documents in words. Of a row that is not sent there is
    the `problem` alone. `tokens_from` says where the number of tokens is known from."""

    id: str
    source: str
    row: int
    route: str | None
    request: dict[str, Any] | None
    problem: str | None
    request_bytes: int | None
    input_tokens: int | None
    tokens_from: str | None
    cost: Cost | None

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "source": self.source,
            "row": self.row,
            "route": self.route,
            "request": self.request,
            "problem": self.problem,
            "request_bytes": self.request_bytes,
            "input_tokens": self.input_tokens,
            "tokens_from": self.tokens_from,
            **({} if self.cost is None else self.cost.as_json()),
        }


@dataclass(frozen=True)
class Preview:
    """Rendered rows; `requests` is how many the night has, where that is known. An answer counts
    with `output_tokens`, which are known as `output_from` says. `night` is what all of it would
    cost, as `night_from` says; None: only `estimate` can tell."""

    job: str
    partition: str
    rows: tuple[Rendered, ...]
    requests: int | None
    output_tokens: float
    output_from: str
    night: Cost | None
    night_from: str
    mode: str
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "partition": self.partition,
            "requests": self.requests,
            "output_tokens": round(self.output_tokens, 1),
            "output_from": self.output_from,
            "night": None if self.night is None else self.night.as_json(),
            "night_from": self.night_from,
            "mode": self.mode,
            "notes": list(self.notes),
            "rows": [row.as_json() for row in self.rows],
        }


@dataclass(frozen=True)
class _Taken:
    """Where rows were looked for: a night's snapshot, or the input as it is now."""

    items: list[SnapshotItem]
    requests: int | None
    night: Night | None
    notes: tuple[str, ...]
    sources: Sources | None = None


def preview(
    pipeline: Pipeline, spec: JobSpec, partition: str, rows: int = 3, item_id: str | None = None
) -> Preview:
    """The first `rows` requests of a night, or that of one item.

    Raises UsageError where there is no such item, and what would stop the night before it.
    """
    price_for(spec)
    declaration = Declaration.of(spec)
    taken = _taken(pipeline, spec, declaration, partition, rows, item_id)
    owner, why = _owner(pipeline, spec)
    tokens = tokens_without_api(pipeline, spec, partition, price_for(spec), owner)
    count = _Counting(pipeline, spec, declaration, tokens, why)
    made = tuple(count.rendered(item) for item in taken.items)
    night, night_from = _night(pipeline, spec, partition, taken, made)
    output = count.output_tokens(None)
    at_most = tokens.output is None
    return Preview(
        job=spec.name,
        partition=partition,
        rows=made,
        requests=taken.requests,
        output_tokens=output,
        output_from="at most: max_tokens, none was measured yet" if at_most else tokens.answer,
        night=night,
        night_from=night_from,
        mode=spec.mode,
        notes=(*taken.notes, *count.notes),
    )


def raw(pipeline: Pipeline, spec: JobSpec, partition: str, item_id: str | None = None) -> bytes:
    """The Messages parameters of one row, to the byte: the first one's, or that of an item.

    Raises UsageError where the row makes no request.
    """
    declaration = Declaration.of(spec)
    taken = _taken(pipeline, spec, declaration, partition, 1, item_id)
    for item in taken.items:
        if item.status is not None:
            raise UsageError(f"{item.id!r} is not sent: {item.why_not_sent}.")
        return _params(pipeline, spec, declaration, item)
    raise UsageError(f"{spec.name} {partition} has no rows.")


def _params(
    pipeline: Pipeline, spec: JobSpec, declaration: Declaration, item: SnapshotItem
) -> bytes:
    """The request of a row with its documents; raises UsageError where one has changed."""
    builder = RequestBuilder(declaration.by_route()[item.route])
    opener = DocumentOpener(pipeline.files, spec.name)
    try:
        return builder.rebuild(item.input, item.places, None, opener)
    except DocumentChangedError as error:
        raise UsageError(f"{item.id!r}: {error}") from error


def _taken(
    pipeline: Pipeline,
    spec: JobSpec,
    declaration: Declaration,
    partition: str,
    rows: int,
    item_id: str | None,
) -> _Taken:
    night, snapshot = _snapshot(pipeline, spec, partition)
    notes: tuple[str, ...] = ()
    if snapshot is not None and declaration.has_made(snapshot):
        files = pipeline.files
        if item_id is None:
            items = snapshot_rows.first(files, snapshot, rows)
        else:
            found = snapshot_rows.by_id(files, snapshot, item_id)
            if found is None:
                raise no_such_item(pipeline, spec, partition, snapshot, item_id)
            items = [found]
        return _Taken(items, snapshot.units, night, ("rows as the night's input was taken",))
    if snapshot is not None:
        notes = ("the declaration has changed since the input was taken: rows are read anew",)
    elif night is not None and night.pruned_at is not None:
        notes = ("the night was pruned: rows are read anew",)
    sources = find_input(pipeline, spec, partition)
    copied = sources.copied is not None
    documents = document_input(pipeline, spec, partition, from_copies=copied)
    items = first_rows.first(declaration, sources, rows, item_id, documents)
    if item_id is not None and not items:
        raise UsageError(f"{spec.name} {partition} has no item {item_id!r} in its input.")
    return _Taken(items, _count_of(sources), None, notes, sources)


def _count_of(sources: Sources) -> int | None:
    """The number of rows, where it is known without reading them."""
    if sources.copied is not None:
        return sources.copied.rows
    whole = not any(file.kind in _TABLES for file in sources.files)
    return len(sources.files) if whole else None


def _snapshot(
    pipeline: Pipeline, spec: JobSpec, partition: str
) -> tuple[Night | None, Snapshot | None]:
    """The night that is shown, and its snapshot where its files are there."""
    with pipeline.ledger.read() as connection:
        night = nights.shown_night(connection, spec.name, partition)
        if night is None or night.snapshot_id is None or night.pruned_at is not None:
            return night, None
        return night, snapshots.get_snapshot(connection, night.snapshot_id)


def no_such_item(
    pipeline: Pipeline, spec: JobSpec, partition: str, snapshot: Snapshot, item_id: str
) -> UsageError:
    """The error for an id that a night has not, with those that look like it."""
    close = snapshot_rows.alike(pipeline.files, snapshot, item_id)
    like = f" Close to it: {', '.join(map(repr, close))}." if close else ""
    return UsageError(f"{spec.name} {partition} has no item {item_id!r}.{like}")


def _owner(pipeline: Pipeline, spec: JobSpec) -> tuple[str | None, str | None]:
    """The owner whose answers count as experience, and why the API cannot be asked, else None."""
    try:
        return pipeline.owner_as_it_is(spec).name, None
    except NoCredentialsError:
        return None, "there is no key"
    except (UsageError, ApiError, AccountError) as error:
        return None, str(error)


def _night(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    taken: _Taken,
    rows: tuple[Rendered, ...],
) -> tuple[Cost | None, str]:
    """What the whole night would cost, as far as that is known without much reading."""
    kept: Mapping[str, Any] | None = None if taken.night is None else taken.night.estimate
    if kept is not None:
        expected = (Decimal(str(kept[mode]["expected_usd"])) for mode in MODES)
        return Cost(*expected), f"as estimated when the input was taken{_projected(taken.night)}"
    tables = [] if taken.sources is None else taken.sources.files
    if tables and taken.requests is None and sum(f.size for f in tables) <= READ_WHOLE_BYTES:
        assert taken.sources is not None
        try:
            found = estimate.of_input(pipeline, spec, partition, taken.sources)
        except InputDataError as error:
            return None, str(error)
        requests = f"{found.work.requests:,} requests"
        return Cost(found.batch.expected, found.realtime.expected), f"an estimate of {requests}"
    costs = [row.cost for row in rows if row.cost is not None]
    if taken.requests is None:
        return None, "the number of rows is not known before they are read; `estimate` reads them"
    if not costs:
        return None, "none of these rows can be sent, so they tell nothing; `estimate` looks at all"
    share = Decimal(taken.requests) / len(costs)
    sums = (sum((getattr(cost, mode) for cost in costs), Decimal(0)) for mode in MODES)
    one = "this row" if len(costs) == 1 else f"these {len(costs)} rows"
    return (
        Cost(*(amount * share for amount in sums)),
        f"if all {taken.requests:,} are as {one}; `estimate` looks at all",
    )


def _projected(night: Night | None) -> str:
    """What the pilot has shown since that the night will cost, where it has."""
    verdict = None if night is None else night.pilot
    if not verdict or not verdict["judged"]:
        return ""
    return f"; its pilot projects {usd(Decimal(str(verdict['projected_usd'])))}"


class _Counting:
    """Counts the tokens of requests: by the API where it can be asked, else by what is known."""

    def __init__(
        self,
        pipeline: Pipeline,
        spec: JobSpec,
        declaration: Declaration,
        tokens: Tokens,
        why_not: str | None,
    ) -> None:
        self._pipeline, self._spec, self._tokens = pipeline, spec, tokens
        self._declaration, self._routes = declaration, declaration.by_route()
        self._builders = {route: RequestBuilder(asked) for route, asked in self._routes.items()}
        self._why_not = why_not

    @property
    def notes(self) -> tuple[str, ...]:
        """Why tokens are not counted by the API, in a clause; nothing where they are."""
        if self._why_not is None:
            return ()
        return (f"tokens are not counted by the API: {self._why_not}",)

    def output_tokens(self, route: str | None) -> float:
        """The tokens that an answer is expected to have; its `max_tokens` where none is known."""
        most = float(self._routes[route].max_tokens)
        return most if self._tokens.output is None else min(most, self._tokens.output.mean)

    def rendered(self, item: SnapshotItem) -> Rendered:
        request = tokens = source = cost = None
        if item.status is None:
            builder = self._builders[item.route]
            request = rendered.of_row(builder, item.as_input)
            tokens, source = self._count(item)
            cost = self._cost(item.route, tokens)
        return Rendered(
            item.id, item.source, item.row, item.route, request, item.why_not_sent,
            item.request_bytes, tokens, source, cost,
        )  # fmt: skip

    def _count(self, item: SnapshotItem) -> tuple[int, str]:
        if self._why_not is None:
            try:
                params = _params(self._pipeline, self._spec, self._declaration, item)
                return self._pipeline.api_for(self._spec).count_tokens(
                    params, self._declaration.betas
                ), COUNTED
            except (ApiFailure, UsageError) as failure:
                self._why_not = str(failure)
        size = item.request_bytes or 0 if item.prompt_size is None else item.prompt_size
        visual = item.visual_tokens or 0
        if self._tokens.per_text_byte is None:
            return round(size * self._tokens.per_byte), self._tokens.prompt
        pages = f"; {PAGE_TOKENS:,} tokens a PDF page, 28 by 28 pixels a token (assumptions)"
        source = self._tokens.prompt + (pages if visual else "")
        return round((size - visual) * self._tokens.per_text_byte + visual), source

    def _cost(self, route: str | None, tokens: int) -> Cost:
        asked, now = self._routes[route], datetime.now(UTC)
        price = price_of_variant(asked, self._declaration, now, stated_prices(self._spec))
        usage = TokenUsage(tokens, round(self.output_tokens(route)))
        ways: tuple[Mode, Mode] = ("batch", "realtime")
        return Cost(*(price.cost(usage, mode=mode) for mode in ways))
