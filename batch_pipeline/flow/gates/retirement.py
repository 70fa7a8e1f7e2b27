"""Models that are retired, or soon will be: named before anything is sent.

The dates are those of the installed SDK (`api.models`); what they mean for a job stands here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.spec import JobSpec


def notice(spec: JobSpec) -> str | None:
    """When the job's model is or was retired; None: the SDK has no date for it."""
    return describe(spec.model_id, _retires(spec), _today())


def check(spec: JobSpec) -> str | None:
    """As `notice`; raises UsageError where the model is retired.

    The API would refuse every new request.
    """
    retires = _retires(spec)
    found = describe(spec.model_id, retires, _today())
    if retires is not None and _today() > retires:
        raise UsageError(
            f"{spec.name}, model_id: {found}; nothing was sent. Choose a model that is offered "
            "today, or update the anthropic package if the date has been put off."
        )
    return found


def _retires(spec: JobSpec) -> date | None:
    from batch_pipeline.api.models import retirement_date  # noqa: PLC0415  # the SDK is heavy

    return retirement_date(spec.model_id)


def _today() -> date:
    return datetime.now(UTC).date()


def describe(model_id: str, retires: date | None, today: date) -> str | None:
    """What to say on a day about a model with this date of retirement; None: nothing."""
    if retires is None:
        return None
    if today > retires:
        return f"{model_id} was retired on {retires}"
    days = (retires - today).days
    when = "today" if not days else "tomorrow" if days == 1 else f"in {days} days"
    return f"{model_id} retires on {retires} ({when}); choose another model_id before then"
