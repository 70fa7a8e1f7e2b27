"""Alerts: messages to a person who is not looking, one for each cause of a night.

Belongs here: which causes there are, and that they are recorded before they are sent. The warnings
that `status` shows stand in `warnings`, the sending in `notification`.

A cause is recorded once, by the first process that sees it. An alert is sent at least once: again
where a target did not take it, or where a process died between sending and recording that, because
an alert that is lost is worse than one that comes twice. Sending never holds up the flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import account_state, notification, warnings
from batch_pipeline.flow.status.batch_warnings import NightWarning
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger import alerts as recorded
from batch_pipeline.ledger.alerts import NewAlert
from batch_pipeline.safe_text import get_logger
from batch_pipeline.wording import usd

log = get_logger(__name__)

ACCOUNT_WIDE = (
    "account_paused",
    "key_refused",
    "other_workspace",
    "api_unavailable",
    warnings.HOME_UNAVAILABLE,
)
# Follows from a setting and not from a night, so that it is no warning of one.
QUEUE_LIMIT = "queue_limit_too_high"
# Of one kind and one look; the ledger has them all.
MOST_LOGGED = 5


def causes(state: Progress, alert_limits: AlertsSpec) -> list[NightWarning]:
    """What is worth an alert now: the warnings that last, closed gates, a night's completion."""
    found = [warning for warning in warnings.of(state, alert_limits) if warning.alerts]
    found.extend(warnings.of_state(state, alert_limits, warnings.GATES))
    if state.complete and alert_limits.on_complete:
        simulated = " (simulated)" if state.account.simulated else ""
        message = (
            f"complete: {state.succeeded:,} of {state.items:,} documents succeeded, "
            f"{state.dead_letter:,} are set aside, {usd(state.total_cost_usd)} billed{simulated}"
        )
        # A night that is taken up again, and completed again, is told again.
        found.append(NightWarning("complete", message, key=str(state.night.revision)))
    return found


def look(pipeline: Pipeline, alert_limits: AlertsSpec, *states: Progress) -> set[str]:
    """Record, log and send what is new of nights of one job; returns the causes just logged."""
    holding = [
        NewAlert(
            night_id=state.night.id,
            cause=cause.cause,
            code=cause.code,
            message=cause.message,
            account_wide=cause.code in ACCOUNT_WIDE,
        )
        for state in states
        for cause in causes(state, alert_limits)
    ]
    holding.extend(_limits_set_too_high(pipeline, states))
    added = _record(pipeline, holding)
    for state in states:
        _log(state, [alert for alert in added if alert.night_id == state.night.id])
    notification.send_due(pipeline)
    return {alert.cause for alert in added}


def _limits_set_too_high(pipeline: Pipeline, states: Iterable[Progress]) -> list[NewAlert]:
    """Queue limits that are set above the API's: one alert for each, whatever the nights."""
    night_of = {state.night.owner: state.night.id for state in states}
    if not night_of:
        return []
    with pipeline.ledger.read() as connection:
        found = account_state.of_owners(connection, pipeline, night_of)
    high = {
        f"{QUEUE_LIMIT} {each.organisation} {each.limit_set} {each.limit_read}": each
        for each in found
        if each.is_set_too_high
    }
    return [
        NewAlert(
            night_of[each.account.owned_by],
            cause,
            QUEUE_LIMIT,
            each.limit_trouble,
            account_wide=True,
        )
        for cause, each in high.items()
    ]


def tell(pipeline: Pipeline, holding: Sequence[NewAlert]) -> None:
    """Record, log and send what is new of causes that do not follow from a night's progress."""
    for alert in _record(pipeline, holding)[:MOST_LOGGED]:
        log.warning("alert: %s", alert.message)
    notification.send_due(pipeline)


def _record(pipeline: Pipeline, holding: Sequence[NewAlert]) -> list[NewAlert]:
    """Record what is not known yet; returns that."""
    added: list[NewAlert] = []
    if holding:
        with pipeline.ledger.read() as connection:
            known = recorded.known(connection, holding)
        new = [cause for cause in holding if (cause.night_id, cause.cause) not in known]
        if new:
            send = pipeline.settings.alert_urls is not None
            with pipeline.ledger.write() as connection:
                added = recorded.record(connection, new, send=send)
    return added


def _log(state: Progress, added: Iterable[NewAlert]) -> None:
    by_code: dict[str, list[str]] = {}
    for alert in added:
        by_code.setdefault(alert.code, []).append(alert.message)
    for code, messages in by_code.items():
        for message in messages[:MOST_LOGGED]:
            log.warning("%s %s: alert: %s", state.night.job, state.night.partition, message)
        if len(messages) > MOST_LOGGED:
            log.warning(
                "%s %s: alert: and %s more of this kind (%s)",
                state.night.job,
                state.night.partition,
                f"{len(messages) - MOST_LOGGED:,}",
                code,
            )
