"""Nights that are killed before another implementation of the API, with books of its own.

It does not call itself a simulator: what the pipeline does here, it does with a real account.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from batch_pipeline.simulator.books.books import Content
from batch_pipeline_tests.end_to_end.crashes import crash_thrift
from batch_pipeline_tests.end_to_end.crashes.crash_books import Asked, Figures
from batch_pipeline_tests.end_to_end.crashes.crash_nights import (
    HOSTILE_LEASE_SECONDS,
    HOSTILE_RECONCILE_SECONDS,
    caching_of,
    pursued,
)
from batch_pipeline_tests.end_to_end.crashes.crash_processes import Forks, Work
from batch_pipeline_tests.end_to_end.plain_api import (
    Params,
    PlainApi,
    Result,
    content_key,
    echo,
    errored,
    message,
    prompt_of,
    running_plain_api,
)
from batch_pipeline_tests.support import (
    PARTITION,
    by_id,
    documents,
    results,
    submissions_of,
    write_rows,
)

ITEMS = 60
QUEUE = 20
CREATES = (
    "ok",
    "ok",
    "ok",
    "full, come back",
    "500",
    "500 but accepted",
    "dropped but accepted",
)
# 200 is an error that comes as a success.
POLLS = (200, 0, 429, 500, 529)
DOWNLOADS = ("ok", "ok", "torn", "short")


def hunted_elsewhere(
    forks: Forks, folder: Path, seed: int, *, blows: int, items: int = ITEMS
) -> Figures:
    """As `crash_nights.hunted`, before the plain API."""
    folder.mkdir(parents=True)
    dice = random.Random(seed)
    caching = caching_of(seed)
    thrifty = caching is not None
    rows = (
        crash_thrift.documents_of(crash_thrift.NIGHTS) if thrifty else {PARTITION: documents(items)}
    )
    with running_plain_api() as api:
        api.turnaround, api.appears_after, api.repeats_lines = 0.4, 0.3, True
        api.queue_limit, api.page_cap = 10 * QUEUE, 20
        api.answer = _answer
        work = Work(
            url=api.url,
            folder=str(folder),
            pilot=3,
            pilot_via="batch",
            requests_per_batch=9,
            queue=QUEUE,
            lease_seconds=HOSTILE_LEASE_SECONDS,
            reconcile_seconds=HOSTILE_RECONCILE_SECONDS,
            caching=caching,
        )
        for night, of_night in rows.items():
            write_rows(work.source(night), of_night)
        with _weather(api, dice):
            figures = pursued(forks, work, dice, blows)
        asked = Asked(_contents(api), content_key, thrifty=thrifty, priced=False)
        asked.look_at(
            {night: by_id(results(work.pipeline(), work.spec(), night)) for night in rows}, rows
        )
        assert api.highest_queue <= QUEUE
        assert not api.called
        foreign = [batch for batch in api.batches if batch.foreign]
        assert not any(batch.canceled for batch in api.batches)
        ours = {submission.batch_id for submission in submissions_of(work.pipeline())}
        assert not ours & {batch.id for batch in foreign}
    figures.add(
        Figures(
            nights=len(rows),
            requests=sum(api.accepted.values()),
            batches=len(api.batches) - len(foreign),
            foreign_batches=len(foreign),
            **asked.saved,
        )
    )
    return figures


def _answer(params: Params, before: int) -> Result:
    """Some requests fail at first, and are asked again. What a schema is declared for is JSON."""
    if before == 0 and "7 about" in prompt_of(params):
        return errored("overloaded_error")
    if "output_config" not in params:
        return echo(params, before)
    cut_off = params["max_tokens"] == 1
    stopped = {"stop_reason": "max_tokens"} if cut_off else {}
    text = '{"ki' if cut_off else '{"kind": "contract"}'
    # The stronger model is asked where this is a multiple of three.
    usage = {"input_tokens": 900 + ("8 about" not in prompt_of(params)), "output_tokens": 5}
    return message(text, model=params["model"], usage=usage, **stopped)


def _contents(api: PlainApi) -> dict[str, Content]:
    """The API's books; it does not tell what anything cost."""
    return {
        key: Content(accepted, billed=api.billed[key], cost_usd=Decimal(0))
        for key, accepted in api.accepted.items()
    }


@contextmanager
def _weather(api: PlainApi, dice: random.Random) -> Iterator[None]:
    """Faults, and batches of others of the same size, for as long as the block lasts."""
    done = threading.Event()
    mine = random.Random(dice.random())

    def blow() -> None:
        while not done.wait(0.1):
            if len(api.create_faults) < 2:
                api.create_faults.append(mine.choice(CREATES))
            if len(api.download_faults) < 2:
                api.download_faults.append(mine.choice(DOWNLOADS))
            if not api.poll_faults and mine.random() < 0.2:
                api.poll_faults.append(mine.choice(POLLS))
            if mine.random() < 0.05:
                api.add_foreign(mine.choice((6, 9)))

    thread = threading.Thread(target=blow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
