"""What a night's input would still buy, for an estimate: how many requests, of which lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from batch_pipeline.flow.answers import answers as night_answers
from batch_pipeline.flow.answers.answers import NightAnswers
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import held_twins
from batch_pipeline.flow.planning.open_units import open_units
from batch_pipeline.flow.planning.sampling import Lengths, Numbers
from batch_pipeline.ledger import shards
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.pricing.estimate import Spread
from batch_pipeline.reporting.distribution import nearest_rank
from batch_pipeline.storage.files import Files

# An estimate groups requests by length this finely, because price tiers depend on the length.
LENGTH_GROUPS = 100


@dataclass(frozen=True)
class Unbought:
    """What an input would still buy.

    `sizes` is of prompts (in bytes where they are texts); `lengths` are groups of them from short
    to long, each with its number of requests and their mean size; `sample` has the ordinals of a
    sample over all lengths. `visual` is the mean part of a size that is tokens of pages and images.
    `routes` is the same by route, where there are several. `reusable` requests, of
    `reusable_bytes`, are answered by earlier nights, and are in none of these. `led` of the
    requests, of `led_bytes`, are of near duplicates whose leaders may come to answer for them.
    """

    requests: int
    sizes: Spread
    lengths: Sequence[tuple[float, float]]
    sample: Sequence[int]
    reusable: int = 0
    reusable_bytes: int = 0
    led: int = 0
    led_bytes: int = 0
    visual: float = 0.0
    routes: Mapping[str | None, Unbought] = field(default_factory=dict)
    # The route of all of them, where there is but one.
    route: str | None = None

    def scaled(self, share: float) -> Unbought:
        """A share of these requests, of all lengths alike."""
        count = round(self.requests * share)
        lengths = [(requests * share, size) for requests, size in self.lengths] if count else []
        return replace(self, requests=count, lengths=lengths, sample=(), routes={})


def unbought(
    pipeline: Pipeline,
    files: Files,
    snapshot: NewSnapshot,
    night: Night | None,
    sample: int,
    earlier: Sequence[str] = (),
) -> Unbought:
    """What a snapshot, which lies in `files`, would still buy in a night (None: a new one), if it
    reuses what it can of the answers in the files `earlier`.

    The snapshot may be no night's own: an estimate looks at input that was not taken. What waits in
    a shard counts as not bought.
    """
    answers, claimed = NightAnswers((), ()), []
    if night is not None:
        with pipeline.ledger.read() as connection:
            answers = night_answers.of_night(connection, night, snapshot)
            found = shards.list_shards(connection, night.id, ShardState.CLAIMED)
        claimed = [shard.manifest for shard in found]
    # Twins count as bought until the pilot has shown that their leaders may answer for them.
    hold = held_twins.are_listed(snapshot)
    with open_units(pipeline.files, snapshot, answers, claimed, files, hold_twins=hold) as units:
        if hold:
            units.release_twins()
        reusable = units.take_reusable(earlier) if earlier else (0, 0)
        led = units.sum_held() if hold else (0, 0)
        lengths = Lengths(units.sizes(), "" if sample else None)
    parts = lengths.by_route()
    visual = lengths.visual_tokens
    drawn_of_all = lengths.drawn(sample).tolist() if sample else ()
    whole = _unbought(lengths.sizes, drawn_of_all, sum(visual.values()))
    whole = replace(
        whole, reusable=reusable[0], reusable_bytes=reusable[1], led=led[0], led_bytes=led[1]
    )
    if len(parts) < 2:
        return replace(whole, route=next(iter(parts), None))
    drawn = np.array(whole.sample, dtype=np.int64)
    routes = {
        route: _unbought(lengths.sizes[places], lengths.among(places, drawn), visual[route])
        for route, places in parts.items()
    }
    return replace(whole, routes=routes)


def _unbought(sizes: Numbers, sample: Sequence[int], visual_tokens: int) -> Unbought:
    if not len(sizes):
        return Unbought(0, Spread(0.0, 0.0, 0.0), (), ())
    ordered = np.sort(sizes)
    median, p95 = (float(ordered[nearest_rank(len(ordered), share)]) for share in (0.5, 0.95))
    groups = np.array_split(ordered, min(LENGTH_GROUPS, len(ordered)))
    return Unbought(
        requests=len(sizes),
        sizes=Spread(float(sizes.mean()), median, p95),
        lengths=tuple((len(group), float(group.mean())) for group in groups),
        sample=sample,
        visual=visual_tokens / len(sizes),
    )
