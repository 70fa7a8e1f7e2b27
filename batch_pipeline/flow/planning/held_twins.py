"""Near duplicates that are not asked for as long as their leaders may answer for them.

With `near_duplicates: {action: reuse}` twins wait for the pilot, which asks pairs of twin and
leader both. If enough of their answers are equal, twins wait for their leaders, and are asked only
where a leader has no usable answer; otherwise all of them are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.flow.dataset.choosing.near_duplicates import decide
from batch_pipeline.ledger.snapshots import NewSnapshot, Snapshot
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

_LEADERS_WITHOUT = f"""
    SELECT unit FROM answers WHERE final GROUP BY unit
    HAVING bool_and(status <> '{Status.SUCCEEDED}')
"""  # noqa: S608  # made of constants
# A twin that was asked, as one of a pair, goes on by itself.
_HELD = f"""
    CREATE TEMP TABLE held AS
        SELECT t.* FROM twins t
        ANTI JOIN (SELECT unit FROM answers UNION SELECT unit FROM in_shards) a ON a.unit = t.unit
        ANTI JOIN ({_LEADERS_WITHOUT}) f ON f.unit = t.leader_unit;
    INSERT INTO not_asked SELECT ordinal FROM held
"""  # noqa: S608


def are_listed(snapshot: NewSnapshot) -> bool:
    """Whether a snapshot has twins that leaders may answer for. One that a redrive has made has
    none: it lies on a snapshot whose items are settled."""
    declared = snapshot.declaration.get("near_duplicates") or {}
    return declared.get("action") == "reuse" and not snapshot.below


def may_be_led(verdict: Mapping[str, Any] | None, snapshot: Snapshot) -> bool:
    """Whether twins wait: for the pilot, or because it has shown that leaders answer for them."""
    if not are_listed(snapshot):
        return False
    if verdict is None or not snapshot.is_judged_by(verdict):
        return True
    return bool(verdict["near_duplicates"]["accepted"])


def hold(connection: duckdb.DuckDBPyConnection, files: Files, snapshot: NewSnapshot) -> None:
    """Make the table `held` of the twins that wait, which are not to be asked; in a database with
    the tables of `open_units`."""
    source = [(files, [decide.path_of(snapshot)])]
    joins.add_files(connection, "twins", source, decide.SCHEMA)
    connection.execute(_HELD)
