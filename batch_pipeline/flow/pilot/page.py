"""The pilot's page: gathers what the sample was asked and what it answered, and writes the page.

Belongs here: which files that is read from, and what of it the page shows. How it looks is in
`reporting.pilot_page`. A page that cannot be written stops nothing by itself; where a review is
required, the gate stays closed without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from batch_pipeline.flow import paths
from batch_pipeline.flow.answers.answers import answer_paths
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.pilot import decision
from batch_pipeline.flow.pilot.shown_items import Items, Sampled
from batch_pipeline.flow.pilot.thumbnails import Thumbnails
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import shards
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.control import approvals
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.pricing.tokens import TOKENS
from batch_pipeline.reporting import pilot_page, shown_request, value_distribution
from batch_pipeline.reporting.pilot_page import AskedPrompt, Failure, PilotPage
from batch_pipeline.safe_text import get_logger
from batch_pipeline.wording import usd

log = get_logger(__name__)

SUFFIX = ".pilot.html"
# The page has at most this number of items, those that failed first.
MOST_ITEMS = 200
MOST_BYTES = 8_000_000
_COLUMNS = (
    "unit", "id", "status", "counted", "content", "parsed", "error_type", "error_message", "model",
    "mode", "route", "variant", "escalate", "cost_usd", "details", *TOKENS,
)  # fmt: skip


def write(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    snapshot: Snapshot,
    verdict: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the page of a verdict; returns what the verdict has of it: `page`, where it is (None:
    there was no sample, or it could not be written), and the fields that are `always_same`."""
    if not verdict["sample"]:
        return {"page": None}
    path = paths.report(night.job, night.partition, SUFFIX)
    try:
        page = _page(pipeline, spec, night, snapshot, verdict)
        pipeline.files.write(path, _rendered(page))
    except Exception as error:
        # Whatever it is: the answers are paid for and kept, and the verdict counts.
        place = f"{night.job} {night.partition}"
        log.warning("%s: the pilot's page could not be written: %r", place, error)
        log.debug("%s", place, exc_info=True)
        return {"page": None}
    same = [field.path for field in page.fields if field.always is not None]
    return {"page": pipeline.files.uri(path), "always_same": same}


def _rendered(page: PilotPage) -> bytes:
    """The page with as many of its items as it has room for."""
    for most in (MOST_ITEMS, MOST_ITEMS // 5, MOST_ITEMS // 20):
        left = page.items[:most]
        fewer = replace(page, items=left, hidden=page.sample - len(left))
        text = pilot_page.render(fewer).encode()
        if len(text) <= MOST_BYTES:
            break
    return text


def _page(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    snapshot: Snapshot,
    verdict: Mapping[str, Any],
) -> PilotPage:
    with pipeline.ledger.read() as connection:
        given = approvals.of_night(connection, night.id)
        simulated = accounts.get_account(connection, night.owner).simulated
    declaration = Declaration.from_json(snapshot.declaration)
    sampled = _sampled(pipeline, night, snapshot)
    fields = value_distribution.of(declaration.output_schema, _parsed(sampled))
    if not spec.show_answers:
        fields = [field for field in fields if field.kind != "text"]
    sampled.sort(key=lambda each: (each.good, each.ordinal))
    shown = sampled[:MOST_ITEMS]
    pictures = Thumbnails(pipeline, night.job)
    items = Items(declaration, pictures, confidential=not spec.show_answers)
    numbers = {each.unit: number for number, each in enumerate(shown, 1)}
    in_order = sorted(shown, key=lambda each: each.ordinal)
    rows = snapshots.read_inputs(pipeline.files, snapshot, [each.ordinal for each in in_order])
    # One row after the other: a document may have megabytes, of which the page shows a part.
    made = [
        items.of(numbers[each.unit], each, row) for each, row in zip(in_order, rows, strict=True)
    ]
    judged = verdict["judged"] > 0
    good = sum(each.good for each in sampled)
    low, high = verdict["projected_low_usd"], verdict["projected_high_usd"]
    return PilotPage(
        job=night.job,
        partition=night.partition,
        made_at=datetime.now(UTC),
        simulated=simulated,
        decision=decision.of(night, verdict, given),
        sample=len(sampled),
        good=good,
        night_items=snapshot.items,
        rest=max(0, snapshot.bought - len(sampled)),
        way="in real time" if _in_real_time(sampled) else "as a batch",
        pilot_usd=sum((item.billed_usd for item in sampled), Decimal(0)),
        projected_usd=Decimal(str(verdict["projected_usd"])) if judged else None,
        low_usd=None if low is None else Decimal(str(low)),
        high_usd=None if high is None else Decimal(str(high)),
        ceilings=_ceilings(spec),
        notes=decision.notes(verdict, good, len(sampled), fields, snapshot),
        asked=_asked(declaration),
        fields=tuple(fields),
        failures=_failures(sampled, confidential=not spec.show_answers),
        items=tuple(sorted(made, key=lambda each: each.number)),
        hidden=len(sampled) - len(shown),
        confidential=not spec.show_answers,
    )


def _sampled(pipeline: Pipeline, night: Night, snapshot: Snapshot) -> list[Sampled]:
    """The units of the pilot of a snapshot, with their answers."""
    with pipeline.ledger.read() as connection:
        planned = shards.pilot_shards(
            connection, snapshot.id, ShardState.COLLECTED, ShardState.CLAIMED
        )
        every = submissions.of_night(connection, night.id, State.COLLECTED, State.ENDED)
    mine = {shard.id for shard in planned}
    answered = [s for s in every if s.has_answers and s.shard_id in mine and not s.duplicate]
    found: dict[str, Sampled] = {}
    for shard in planned:
        columns = ["unit", "id", "ordinal", "route"]
        for row in manifests.read(pipeline.files, shard.manifest, columns).to_pylist():
            found.setdefault(row["unit"], Sampled(**row, answers=[]))
    files = answer_paths(night, answered)
    if files:
        table = pipeline.files.dataset(files, ANSWERS_SCHEMA).to_table(columns=list(_COLUMNS))
        for row in table.to_pylist():
            if row["unit"] in found:
                found[row["unit"]].answers.append(row)
    return [each for each in found.values() if each.answers]


def _in_real_time(sampled: Sequence[Sampled]) -> bool:
    return any(answer["mode"] == "realtime" for each in sampled for answer in each.answers)


def _parsed(sampled: Sequence[Sampled]) -> list[Any]:
    """The parsed answers that are kept."""
    texts = (each.stands["parsed"] for each in sampled if each.good and each.stands is not None)
    return [orjson.loads(text) for text in texts if text is not None]


def _ceilings(spec: JobSpec) -> tuple[str, ...]:
    found = (
        (spec.budget.max_usd_per_partition, "this night"),
        (spec.budget.max_usd_per_month, "this job in a calendar month"),
        (spec.pilot.max_projected_usd, "what a pilot may project"),
    )
    return tuple(f"{usd(limit)} for {what}" for limit, what in found if limit is not None)


def _asked(declaration: Declaration) -> AskedPrompt:
    """The prompt as it is declared, with its placeholders."""
    output = {"output_config": {"format": {"schema": declaration.output_schema}}}
    params: dict[str, Any] = {
        **declaration.params,
        **(output if declaration.output_schema is not None else {}),
        "model": declaration.model_id,
        "max_tokens": declaration.max_tokens,
        "system": declaration.system,
        "messages": [{"role": t.role, "content": t.text} for t in declaration.all_turns],
    }
    shown = shown_request.of(params)
    routes = declaration.by_route().values()
    examples = declaration.examples or {}
    count = examples.get("count")
    return AskedPrompt(
        turns=shown.turns,
        examples=len(examples.get("turns", ())) if count is None else count,
        models=", ".join(dict.fromkeys(asked.model_id for asked in routes)),
        max_tokens=declaration.max_tokens,
        schema=shown.schema,
        rest=shown.rest,
    )


def _failures(sampled: Sequence[Sampled], *, confidential: bool) -> tuple[Failure, ...]:
    """What failed, by status and kind of error, the most frequent first; `sampled` is in the order
    of the page."""
    groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for number, each in enumerate(sampled, 1):
        stands = each.stands
        if stands is None or each.good:
            continue
        kind = stands["error_type"] or ""
        message = kind if confidential else stands["error_message"] or kind
        groups.setdefault((stands["status"], kind), []).append((number, message))
    found = []
    for (status, _), listed in groups.items():
        messages = dict.fromkeys(message for _, message in listed)
        first = next(iter(messages))
        numbers = () if confidential else tuple(number for number, _ in listed)
        found.append(
            Failure(
                status,
                first if len(messages) == 1 else f"for example: {first}",
                len(listed),
                tuple(number for number in numbers if number <= MOST_ITEMS),
            )
        )
    return tuple(sorted(found, key=lambda failure: -failure.count))
