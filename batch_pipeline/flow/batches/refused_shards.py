"""Splits shards whose body was refused, until the row at fault is found and set aside.

The API takes a batch in whole or not at all: one row that it refuses keeps thousands of others
from being answered. If the refusal names the row by its position in the body, that row is set
aside; otherwise the shard is halved, and a refused shard of one request is that row. A position is
not believed twice in a row: where taking a row out leads to the same position being named, it may
mean something else, and halving finds the row whatever the message means. A body that is too large
is halved alike.

Belongs here: how a shard is split. When splitting is given up, and what a killed process leaves,
stands in `ledger.submissions.refusals`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow.answers.outcomes import ERROR_ACTIONS, Action, is_page, is_size_page
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests, new_shards
from batch_pipeline.ledger import shards, snapshots
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import NewShard, Shard
from batch_pipeline.ledger.submissions import refusals, submissions
from batch_pipeline.ledger.submissions.refusals import Refusal
from batch_pipeline.pricing.bounds import ShardSize
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

TOO_LARGE = "request_too_large"
INVALID = "invalid_request_error"
# `requests.17.params.…`, `requests[17]`, `/requests/17/…`, `body -> requests -> 17`: at the
# beginning alone, since the rest of a message may quote a document.
_ROW = re.compile(
    r"""[\s"'`(\[$./]*(?:body\s*(?:\.|/|->)\s*)?requests?\s*(?:\.|/|->|\[)\s*["']?(\d{1,6})\b""",
    re.IGNORECASE,
)


def of_failure(failure: ApiFailure, token: str) -> Refusal:
    """What the ledger keeps of a create that was refused; `token` is its submission's."""
    too_large = failure.status == 413 or failure.error_type == TOO_LARGE
    kind = TOO_LARGE if too_large else failure.error_type or INVALID
    if ERROR_ACTIONS.get(kind) is not Action.SET_ASIDE:
        kind = INVALID
    page = failure.error_type is None
    return Refusal(
        error_type=kind,
        message=str(failure) if page else failure.message,
        told=str(failure),
        too_large=too_large,
        page=is_page(failure) or is_size_page(failure),
        row=None if page else row_named(failure.message, token),
    )


def row_named(message: str, token: str) -> int | None:
    """The position in the body that a message names, or None.

    By a custom id too, wherever it stands: no document can quote the random token in it.
    """
    found = _ROW.match(message) or re.search(rf"\b{token}_(\d{{1,6}})\b", message)
    return None if found is None else int(found[1])


def split_all(pipeline: Pipeline, night: Night) -> None:
    """Split the night's refused shards; those that were not sent themselves first, so that the
    next body is of other rows than the last one."""
    with pipeline.ledger.read() as connection:
        waiting = shards.shards_to_split(connection, night.id)
        sent = {
            shard.id: submissions.get(connection, shard.refused_by).shard_id == shard.id
            for shard in waiting
            if shard.refused_by is not None
        }
    for shard in sorted(waiting, key=lambda shard: (sent[shard.id], shard.id)):
        _split(pipeline, night, shard, sent=sent[shard.id])


def _split(pipeline: Pipeline, night: Night, shard: Shard, *, sent: bool) -> None:
    with pipeline.ledger.read() as connection:
        assert shard.refused_by is not None
        refusal = refusals.of(submissions.get(connection, shard.refused_by))
        former = refusals.before(connection, shard)
        declared = snapshots.get_snapshot(connection, shard.snapshot_id).declaration
    assert refusal is not None
    declaration = Declaration.from_json(declared)
    manifest = manifests.read(pipeline.files, shard.manifest)
    row = row_at_fault(shard.requests, refusal, former) if sent else None
    parts = [
        part_of(pipeline, night, declaration, shard, rows) for rows in split_rows(manifest, row)
    ]
    found = parts.pop(0) if row is not None else None
    with pipeline.ledger.write() as connection:
        done = refusals.split(connection, shard, parts)
        if done and found is not None:
            refusals.set_aside(connection, shard, found, refusal, pipeline.holder)
    if not done:
        # Another process has split it, or planned its requests anew.
        for part in filter(None, [found, *parts]):
            pipeline.files.remove(part.manifest)
    elif found is not None:
        document = manifest.column("id")[row].as_py()
        log.warning("document %r is set aside: its batch was refused: %s", document, refusal.told)
    else:
        log.info("a batch of %s requests was refused and is halved", f"{shard.requests:,}")


def row_at_fault(requests: int, refusal: Refusal, former: Refusal | None) -> int | None:
    """The row that a refused body of this number of requests is refused for; None: not known."""
    if requests == 1:
        return 0
    named = refusal.row
    if named is None or named >= requests or (former is not None and former.row == named):
        return None
    return named


def split_rows(manifest: pa.Table, row: int | None) -> list[pa.Table]:
    """A row's manifest and that of the others, if there are others; without a row two halves of
    about the same size in bytes."""
    if row is not None:
        others = pa.concat_tables([manifest.slice(0, row), manifest.slice(row + 1)])
        return [manifest.slice(row, 1), *([others] if others.num_rows else [])]
    sizes = np.cumsum(manifest.column("request_bytes").to_numpy())
    middle = int(np.searchsorted(sizes, sizes[-1] / 2)) + 1
    first = min(max(middle, 1), manifest.num_rows - 1)
    return [manifest.slice(0, first), manifest.slice(first)]


def part_of(
    pipeline: Pipeline, night: Night, declaration: Declaration, whole: Shard, rows: pa.Table
) -> NewShard:
    """A shard of some rows of another one, whose manifest is written."""

    def bound(size: ShardSize) -> Decimal:
        # Requests of the dearest model may be in this part alone.
        if whole.parts is not None:
            return whole.usd_bound
        # Input, output and fees each cost at most what they cost of the whole, by their share.
        shares = [
            Decimal(size.whole[name]) / max(1, of_whole)
            for name, of_whole in (
                ("input_bytes", whole.size_of_prompts),
                ("output_tokens", whole.output_tokens),
                ("requests", whole.requests),
            )
        ]
        return whole.usd_bound * max(shares)

    part = new_shards.new_shard(
        pipeline, night, declaration, rows, whole.engine, bound, pilot=whole.pilot
    )
    return replace(part, for_deadline=whole.for_deadline)
