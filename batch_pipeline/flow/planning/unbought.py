"""What of an input is still to be bought: how many requests, and how long they are.

As the one rule has it (`open_units`), but for a snapshot that may be no night's own: an estimate
looks at input that nobody has taken. What waits in a shard is not bought yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batch_pipeline.flow import answers as standing_answers
from batch_pipeline.flow.answers import StandingAnswers
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import sampling
from batch_pipeline.flow.planning.open_units import open_units
from batch_pipeline.ledger import shards
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.pricing.estimate import Spread
from batch_pipeline.storage.files import Files

# Lengths of requests are told apart this finely; tiers of prices go by them.
STRATA = 100


@dataclass(frozen=True)
class Unbought:
    """Requests, their sizes in bytes, groups of them from short to long (how many, mean size), and
    the ordinals of a sample over all lengths."""

    requests: int
    sizes: Spread
    lengths: Sequence[tuple[int, float]]
    sample: Sequence[int]


def unbought(
    pipeline: Pipeline, files: Files, snapshot: NewSnapshot, night: Night | None, sample: int
) -> Unbought:
    """What a snapshot, which lies in `files`, would still buy in a night (None: a new one)."""
    answers, held = StandingAnswers((), ()), []
    if night is not None:
        with pipeline.ledger.read() as connection:
            answers = standing_answers.of_night(connection, night)
            at_work = shards.list_shards(connection, night.id, ShardState.HELD)
        held = [shard.manifest for shard in at_work]
    columns, lots = [], []
    with open_units(pipeline.files, snapshot, answers, held, files) as units:
        for table in units.sizes():
            columns.append(table.select(["request_bytes", "ordinal"]))
            if sample:
                lots.append(sampling.lots(table.column("unit").to_pylist()))
    sizes = sampling.joined(table.column("request_bytes") for table in columns)
    if not len(sizes):
        return Unbought(0, Spread(0.0, 0.0, 0.0), (), ())
    ordinals = sampling.joined(table.column("ordinal") for table in columns)
    if sample:
        ordinals = ordinals[sampling.drawn(sizes, np.concatenate(lots), sample)]
    ordered = np.sort(sizes)
    quantiles = [sampling.quantile(ordered, share) for share in (0.5, 0.95)]
    groups = np.array_split(ordered, min(STRATA, len(ordered)))
    return Unbought(
        requests=len(sizes),
        sizes=Spread(float(sizes.mean()), *quantiles),
        lengths=tuple((len(group), float(group.mean())) for group in groups),
        sample=ordinals.tolist() if sample else (),
    )
