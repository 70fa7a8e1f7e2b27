"""Sends recorded alerts through apprise to the addresses in `BATCH_PIPELINE_ALERT_URLS`.

The addresses hold tokens and passwords: they are read when something is to be sent, and no message,
log line or ledger row has them. apprise's own log is silenced for the same reason.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import alerts, nights
from batch_pipeline.ledger.alerts import Alert
from batch_pipeline.ledger.nights import Night
from batch_pipeline.safe_text import get_logger, one_line
from batch_pipeline.storage import staging

if TYPE_CHECKING:
    import apprise

log = get_logger(__name__)

# As long as a step of the flow, or a tick of the sensor, may wait for a target that hangs.
PATIENCE_SECONDS = 8.0
MOST_LINES = 5
# A message that cannot be recorded is sent again after this time, if its cause lasts.
AGAIN_SECONDS = 3600.0
# Addresses may hold commas, but no scheme after one.
SEPARATOR = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9]*://)")
GOOD, BAD = (
    ("complete",),
    (
        "gate_closed",
        "breaker_open",
        "account_paused",
        "home_unavailable",
        "key_refused",
        "night_failed",
        "night_refused",
        "never_started",
        "other_workspace",
    ),
)
TITLES = {
    "account_paused": "submission is paused",
    "api_unavailable": "the API does not answer",
    "batch_missing": "the API does not know a batch",
    "breaker_open": "the circuit breaker is open",
    "budget_reached": "the budget is reached",
    "complete": "complete",
    "cost_per_document": "cost per document above its limit",
    "dead_letter_rate": "dead letters above their limit",
    "empty_input": "the input has no rows",
    "error_rate": "error rate above its limit",
    "gate_closed": "the pilot's gate is closed",
    "home_unavailable": "home or ledger cannot be used",
    "key_refused": "the API refuses the key",
    "near_expiry": "batches near their expiry",
    "never_started": "a due night has not begun",
    "night_failed": "the night has failed",
    "night_refused": "the API refused a batch",
    "other_workspace": "the key is one of another workspace",
    "over_budget": "a ceiling is passed",
    "queue_limit_too_high": "the queue limit is set above the API's",
    "results_gone": "results were deleted uncollected",
    "results_near_deletion": "results near their deletion",
    "uncollected": "results are not collected",
    "unknown_outcome": "submissions of unknown outcome",
}


@dataclass(frozen=True)
class Message:
    """Alerts of one night and kind, in one message; `missing` are positions still to be served."""

    title: str
    body: str
    kind: str
    alerts: tuple[Alert, ...]


def send_due(pipeline: Pipeline) -> None:
    """Send what is recorded and due, of all nights of the ledger; without a target nothing.

    In a thread of its own, which is waited for `PATIENCE_SECONDS`: a target that hangs must not
    hold up the flow. What a dying process leaves unsent is sent by the next process that looks.
    """
    urls = pipeline.settings.alert_urls
    if urls is None:
        return
    with pipeline.ledger.read() as connection:
        if not alerts.anything_due(connection):
            return
    with pipeline.ledger.write() as connection:
        claimed = alerts.claim(connection)
        found = {alert.night_id: nights.get_night(connection, alert.night_id) for alert in claimed}
    messages = _messages(claimed, found)

    def send() -> None:
        try:
            _send(pipeline, urls, messages)
        except Exception as error:  # noqa: BLE001  # an alert must not stop what it is about
            # Its text may quote an address.
            log.warning("alerts could not be sent (%s); tried again later", type(error).__name__)

    thread = threading.Thread(target=send, name="alerts", daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)


def send_unrecorded(urls: str | None, title: str, body: str, *, about: str) -> bool:
    """Send a message that the ledger cannot hold, because it cannot be written; returns whether it
    was sent to every target.

    Not again within an hour of a message `about` the same, on this machine.
    """
    if urls is None or not _is_due(about):
        return False
    message = Message(title, one_line(body), "failure", ())
    reached: list[bool] = []

    def send() -> None:
        reached.extend(target is not None and _notify(target, message) for target in _targets(urls))

    thread = threading.Thread(target=send, name="alerts", daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return bool(reached) and all(reached)


def _is_due(about: str) -> bool:
    """Whether a message may go out now; notes that it does, by the time of an empty file, which a
    full disk still takes. Where that is impossible it goes."""
    digest = hashlib.sha256(about.encode()).hexdigest()[:16]
    with contextlib.suppress(OSError, UsageError):
        told = staging.of_user() / f"told-{digest}"
        if told.exists() and time.time() - told.stat().st_mtime < AGAIN_SECONDS:
            return False
        told.touch(0o600)
    return True


def _messages(claimed: Sequence[Alert], found: dict[int, Night]) -> list[Message]:
    """One message for all alerts of a night and kind: a hundred batches expire at one time."""
    groups: dict[tuple[int, str, tuple[int, ...]], list[Alert]] = {}
    for alert in claimed:
        groups.setdefault((alert.night_id, alert.code, alert.delivered), []).append(alert)
    messages = []
    for (night_id, code, _), group in groups.items():
        night = found[night_id]
        lines = [one_line(alert.message) for alert in group[:MOST_LINES]]
        if len(group) > MOST_LINES:
            lines.append(f"and {len(group) - MOST_LINES:,} more")
        lines.append(f"Owner {night.owner}. Where it stands: batch-pipeline status {night.job}")
        title = f"{night.job} {night.partition}: {TITLES.get(code, code)}"
        kind = "success" if code in GOOD else "failure" if code in BAD else "warning"
        messages.append(Message(title, "\n".join(lines), kind, tuple(group)))
    return messages


def _send(pipeline: Pipeline, urls: str, messages: Sequence[Message]) -> None:
    targets = _targets(urls)
    for message in messages:
        delivered = set(message.alerts[0].delivered)
        for position, target in enumerate(targets):
            if position not in delivered and target is not None and _notify(target, message):
                delivered.add(position)
        sent = len(delivered) >= len(targets)
        with pipeline.ledger.write() as connection:
            alerts.settle(connection, message.alerts, sorted(delivered), sent=sent)
        if not sent:
            missed = [str(n + 1) for n in range(len(targets)) if n not in delivered]
            log.warning(
                "alert %r did not reach target %s of BATCH_PIPELINE_ALERT_URLS; it is tried %d "
                "times in all",
                message.title,
                ", ".join(missed),
                alerts.MOST_ATTEMPTS,
            )


def _targets(urls: str) -> list[apprise.Apprise | None]:
    """A sender for each address, None for one that is not understood."""
    import apprise  # noqa: PLC0415  # heavy, and most processes send nothing

    logging.getLogger("apprise").disabled = True
    # At debug level it tells hosts and paths, and a path may be a token.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.WARNING)
    asset = apprise.AppriseAsset(app_id="batch_pipeline", app_desc="batch_pipeline")
    found: list[apprise.Apprise | None] = []
    for url in SEPARATOR.split(urls):
        target = apprise.Apprise(asset=asset)
        understood = bool(target.add(url))
        if not understood:
            log.warning(
                "target %d of BATCH_PIPELINE_ALERT_URLS is no address that apprise understands",
                len(found) + 1,
            )
        found.append(target if understood else None)
    return found


def _notify(target: apprise.Apprise, message: Message) -> bool:
    import apprise  # noqa: PLC0415  # as above

    kind: Any = apprise.NotifyType(message.kind)
    return bool(target.notify(title=message.title, body=message.body, notify_type=kind))
