"""Which open units a stronger model is asked for, because their answer failed or is unsure.

Belongs here: queries over the table `tried` of the open units (see `open_units`), and the rule of
the share. Which answers wait for it is judged when they are collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers.outcomes import BILLED, Status, Undecided
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA
from batch_pipeline.flow.planning.variants import IS_ESCALATED

if TYPE_CHECKING:
    import duckdb

# The state of an open unit that was asked of the stronger model, and is to be asked so again.
AGAIN = "again"
# How far an open unit is with the stronger model, by its answers: one of `Undecided`, or `AGAIN`.
# NULL: the unit has no answer that needs it.
STATE = f"""
    CASE WHEN bool_or(escalate = '{Undecided.STANDS}' AND NOT redriven) THEN '{Undecided.STANDS}'
         WHEN bool_or({IS_ESCALATED} AND NOT redriven) THEN '{AGAIN}'
         ELSE max(escalate) FILTER (NOT redriven) END
"""
# What the share of escalated requests is of, and how many have been escalated or are to be.
_SHARE = f"""
    SELECT (SELECT count(DISTINCT unit) FROM answers
            WHERE counted AND mode IN ('batch', 'realtime')
            AND status IN ({", ".join(f"'{status}'" for status in BILLED)})),
           (SELECT count(DISTINCT unit) FROM (
                SELECT unit FROM answers WHERE counted AND {IS_ESCALATED}
                UNION ALL SELECT unit FROM in_shards WHERE {IS_ESCALATED}
           )),
           (SELECT count(*) FROM in_shards WHERE NOT {IS_ESCALATED})
"""  # noqa: S608
_STATES = f"""
    SELECT state, count(*) FROM tried WHERE state IS NOT NULL GROUP BY state
    UNION ALL SELECT 'optional', count(*) FROM tried WHERE state = '{AGAIN}' AND optional
"""  # noqa: S608
_WAITS = f"state IN ('{Undecided.FAILED}', '{Undecided.UNSURE}')"
_LEAVE_OUT = f"""
    INSERT INTO left_out SELECT unit FROM tried
    WHERE state = '{Undecided.STANDS}' OR (state = '{AGAIN}' AND optional AND NOT $unsure)
    OR {_WAITS} AND unit NOT IN (
        SELECT unit FROM tried WHERE {_WAITS}
        AND (state = '{Undecided.FAILED}' OR $unsure)
        ORDER BY state = '{Undecided.UNSURE}', unit LIMIT $most
    )
"""  # noqa: S608
# The answer that stands of a unit that is left out: one that succeeded, else the last one.
_PICK_STANDING = f"""
    CREATE OR REPLACE TEMP TABLE picked AS
        SELECT unit, custom_id FROM answers SEMI JOIN left_out USING (unit)
        WHERE counted AND NOT redriven
        QUALIFY row_number() OVER (
            PARTITION BY unit ORDER BY status = '{Status.SUCCEEDED}' DESC, attempt DESC
        ) = 1
"""  # noqa: S608
_STANDING = f"""
    SELECT {", ".join(f"a.{name}" for name in ANSWERS_SCHEMA.names)}
    FROM answers a JOIN picked p ON p.unit = a.unit AND p.custom_id = a.custom_id
    WHERE a.counted AND NOT a.redriven
"""  # noqa: S608


@dataclass(frozen=True)
class Escalations:
    """How many open units wait for the stronger model because their answer `failed` or is `unsure`,
    and for how many it failed, so that a former answer `stands`. Of those with an unsure answer it
    is to be asked `again` for some.

    `bought` units of the night were billed, `escalated` ones were asked of the stronger model or
    are about to be. `all_answered`: no open unit and no shard lacks its first answer.
    """

    failed: int = 0
    unsure: int = 0
    stands: int = 0
    again: int = 0
    bought: int = 0
    escalated: int = 0
    all_answered: bool = True

    @property
    def waiting(self) -> int:
        return self.failed + self.unsure

    def allowed(self, max_share: float) -> int:
        """How many more may be escalated by the share of the night's bought units."""
        return max(0, floor(max_share * self.bought + 1e-9) - self.escalated)


def of(connection: duckdb.DuckDBPyConnection, count_open: Callable[[], int]) -> Escalations:
    """How the open units that wait for the stronger model stand to the whole night; `count_open`
    counts all open units."""
    states = dict(connection.execute(_STATES).fetchall())
    again = states.pop("optional", 0)
    if not states:
        return Escalations()
    [(bought, escalated, asked_first)] = connection.execute(_SHARE).fetchall()
    unanswered = count_open() - sum(states.values())
    return Escalations(
        failed=states.get(Undecided.FAILED, 0),
        unsure=states.get(Undecided.UNSURE, 0),
        stands=states.get(Undecided.STANDS, 0),
        again=again,
        bought=bought,
        escalated=escalated,
        all_answered=not unanswered and not asked_first,
    )


def leave_out(connection: duckdb.DuckDBPyConnection, most: int, *, unsure: bool) -> None:
    """Fill the table `left_out`, see `OpenUnits.leave_out`."""
    connection.execute("DELETE FROM left_out")
    connection.execute(_LEAVE_OUT, {"most": max(0, most), "unsure": unsure})


def standing(connection: duckdb.DuckDBPyConnection) -> Iterator[pa.RecordBatch]:
    """The answers that stand for the units of the table `left_out`."""
    connection.execute(_PICK_STANDING)
    return joins.batches(connection, _STANDING)
