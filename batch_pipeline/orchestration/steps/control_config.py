"""The configuration of `<job>_control`: one action of a person on a night, and who does it.

The launchpad offers the actions and their fields; "Scaffold missing config" writes them out. `by`
is required, since open-source Dagster does not know its users.
"""

# Annotations are not postponed here: Dagster reads the types of configuration at run time.

from enum import Enum
from typing import Literal

import dagster as dg
from pydantic import Field

from batch_pipeline.flow.answers.outcomes import REASONS

_PARTITION = "The night, as its partition key: 2026-01-31, or `all`."
_WHY = "Why; others read it later."


class GateName(Enum):
    """The gates that a person may overrule; Dagster shows these names."""

    pilot = "pilot"
    breaker = "breaker"


class Cancel(dg.Config):
    """Cancel what is in flight, keep what is done, hold the night until it is resumed."""

    action: Literal["cancel"] = "cancel"
    partition: str = Field(description=_PARTITION)
    reason: str = Field(default="", description=_WHY)


class Resume(dg.Config):
    """Lift a cancel: the night goes on, also where its last run was terminated."""

    action: Literal["resume"] = "resume"
    partition: str = Field(description=_PARTITION)
    reason: str = Field(default="", description=_WHY)


class Approve(dg.Config):
    """Overrule a closed gate: the night goes on as it is."""

    action: Literal["approve"] = "approve"
    partition: str = Field(description=_PARTITION)
    gate: GateName = Field(description="Which gate is closed: pilot or breaker.")
    reason: str = Field(description=_WHY)


class Redrive(dg.Config):
    """Send dead letters again, after a fix of prompt or data."""

    action: Literal["redrive"] = "redrive"
    partition: str = Field(description=_PARTITION)
    reasons: list[str] = Field(
        default=[], description=f"Only these: {', '.join(REASONS)}. Empty: all of them."
    )
    reason: str = Field(default="", description=_WHY)


class Prune(dg.Config):
    """Remove snapshots and raw lines of finished nights; results and reports stay."""

    action: Literal["prune"] = "prune"
    before: str | None = Field(
        default=None, description="The first night that stays, as its partition key or a day."
    )
    partition: str | None = Field(
        default=None, description="One night, in place of `before`: where partitions are names."
    )
    dry_run: bool = Field(default=True, description="Say what would go, remove nothing.")
    reason: str = Field(default="", description=_WHY)


Action = Cancel | Resume | Approve | Redrive | Prune


class ControlConfig(dg.Config):
    """Who does what."""

    by: str = Field(description="Who does this; recorded in the ledger.")
    action: Action = Field(
        discriminator="action", description="One of: cancel, resume, approve, redrive, prune."
    )
