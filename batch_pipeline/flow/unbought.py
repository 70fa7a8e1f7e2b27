"""What of an input is still to be bought: how many requests, and how long they are.

As the one rule has it (`open_units`), but for a snapshot that may be no night's own: an estimate
looks at input that nobody has taken. What waits in a shard is not bought yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batch_pipeline.flow import manifests, snapshots, standing_answers
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.standing_answers import StandingAnswers
from batch_pipeline.money.estimate import Spread
from batch_pipeline.state import shards
from batch_pipeline.state.files import Files
from batch_pipeline.state.inputs import NewSnapshot
from batch_pipeline.state.nights import Night
from batch_pipeline.state.shards import ShardState

# Lengths of requests are told apart this finely; tiers of prices go by them.
STRATA = 100

# Part by part: DuckDB would build a join on the whole snapshot, see `snapshots.each_part`.
_TAKEN = """
    CREATE TEMP TABLE taken AS
        SELECT DISTINCT unit FROM answers WHERE final UNION SELECT unit FROM held;
    CREATE TEMP TABLE answered_for AS SELECT ordinal FROM duplicates;
    CREATE TEMP TABLE unbought (ordinal BIGINT, unit VARCHAR, request_bytes BIGINT)
"""
_LEFT = """
    INSERT INTO unbought
    SELECT s.ordinal, s.unit, s.request_bytes
    FROM snapshot s
    ANTI JOIN answered_for d ON d.ordinal = s.ordinal
    ANTI JOIN taken t ON t.unit = s.unit
    WHERE s.unit IS NOT NULL
"""
_SIZES = """
    SELECT count(*), avg(request_bytes), quantile_cont(request_bytes, [0.5, 0.95]) FROM unbought
"""
_LENGTHS = """
    SELECT count(*), avg(request_bytes) FROM (
        SELECT request_bytes, ntile($strata) OVER (ORDER BY request_bytes) AS stratum FROM unbought
    ) GROUP BY stratum ORDER BY stratum
"""
_SAMPLE = """
    SELECT ordinal FROM (
        SELECT ordinal, unit, ntile($size) OVER (ORDER BY request_bytes, ordinal) AS stratum
        FROM unbought
    )
    QUALIFY row_number() OVER (PARTITION BY stratum ORDER BY md5(unit), ordinal) = 1
    ORDER BY ordinal
"""


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
    sources = {"held": (held, manifests.SCHEMA)}
    with standing_answers.tables(pipeline.files, answers, sources) as connection:
        paths = snapshots.duplicates_paths(snapshot)
        schema = snapshots.DUPLICATES_SCHEMA
        duplicates = files.dataset(paths) if paths else schema.empty_table()
        connection.register("duplicates", duplicates)
        connection.execute(_TAKEN)
        parts = snapshots.part_paths(snapshot)
        for _ in snapshots.each_part(connection, files, parts, snapshot.items):
            connection.execute(_LEFT)
        [(requests, mean, quantiles)] = connection.execute(_SIZES).fetchall()
        if not requests:
            return Unbought(0, Spread(0.0, 0.0, 0.0), (), ())
        lengths = connection.execute(_LENGTHS, {"strata": STRATA}).fetchall()
        drawn = connection.execute(_SAMPLE, {"size": sample}).fetchall() if sample else []
    return Unbought(
        requests=int(requests),
        sizes=Spread(mean, *quantiles),
        lengths=tuple(lengths),
        sample=tuple(ordinal for (ordinal,) in drawn),
    )
