"""What is shown while a night runs: the account, a progress bar on a terminal or lines in a log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from batch_pipeline import logs
from batch_pipeline.cli.output import Output
from batch_pipeline.cli.tables import SafeConsole
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import eta, progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.safe_text import Formatter, get_logger
from batch_pipeline.wording import usd

log = get_logger(__name__)

# Without a terminal, a line in the log at least every five minutes: `watch` is called once a minute
# at the latest.
LOG_SECONDS = 240.0


def announce_account(output: Output, pipeline: Pipeline, spec: JobSpec) -> None:
    """Say which accounts pay, before anything is bought."""
    owner = pipeline.owner(spec)
    kind = "answers are made up, nothing is billed" if owner.simulated else "real API, billed"
    if owner.accounts == (owner.name,):
        output.say(f"Account: {owner.name} ({kind})")
    else:
        output.say(f"Accounts: {', '.join(owner.accounts)}, owner {owner.name} ({kind})")


@contextmanager
def shown() -> Iterator[Callable[[progress.Progress], None]]:
    """A function to call with each new state: draws a bar on a terminal, logs elsewhere."""
    stderr = SafeConsole(stderr=True)
    if not stderr.is_terminal or logs.wants_json():
        yield _logged_progress()
        return
    bar = _Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stderr,
    )
    task = bar.add_task("starting", total=None)
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [_log_above(stderr)]

    def watch(state: progress.Progress) -> None:
        name = f"{state.night.job} {state.night.partition}"
        bar.facts = _facts(state)
        bar.update(task, description=name, completed=state.settled, total=state.items or 1)

    try:
        with bar:
            yield watch
    finally:
        root.handlers = handlers


class _Bar(Progress):
    """A bar with a line of facts below: in one line they would not fit a usual terminal."""

    facts = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.facts, style="dim", no_wrap=True, overflow="ellipsis")


def _logged_progress() -> Callable[[progress.Progress], None]:
    last_text, last_at = "", 0.0
    lock = threading.Lock()

    def watch(state: progress.Progress) -> None:
        with lock:
            line(state)

    def line(state: progress.Progress) -> None:
        nonlocal last_text, last_at
        text = f"{state.night.job} {state.night.partition}: {state.describe()}"
        at = time.monotonic()
        if text != last_text or at - last_at >= LOG_SECONDS:
            # An estimate of the time left changes with the clock: it alone is no reason for a line.
            log.info(", ".join([text, *eta.describe(state)]))
            last_text, last_at = text, at

    return watch


def _log_above(console: Console) -> logging.Handler:
    handler = RichHandler(
        console=console,
        show_path=False,
        show_level=False,
        omit_repeated_times=False,
        log_time_format="%H:%M:%S",
    )
    handler.setFormatter(Formatter("%(message)s"))
    return handler


def _facts(state: progress.Progress) -> str:
    parts = [f"{state.batches_ended} of {state.batches} batches ended"]
    if state.waiting:
        parts.append(f"{state.waiting:,} waiting")
    if state.dead_letter:
        parts.append(f"{state.dead_letter:,} set aside")
    wanted = progress.deadline(state.night, state.at)
    if wanted is not None:
        parts.append(wanted)
    parts.append(usd(state.total_cost_usd) + (" (simulated)" if state.account.simulated else ""))
    return ", ".join([*parts, *eta.describe(state)])
