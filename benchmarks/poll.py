"""(d) A poll, and a whole sensor tick, with 10 and with 1,000 batches of 30 nights in flight.

The server keeps all batches running. The tick is one of the job's own sensor, on a Dagster instance
of its own.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from batch_pipeline.api.client import AnthropicApi
from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.jobs.yaml_files.loading import find_job
from batch_pipeline.orchestration.sensor import tick as sensor
from batch_pipeline.settings import Settings
from benchmarks.corpus import declare, write_documents
from benchmarks.measure import environment, parser, sink, verdict

NIGHTS = 30
TICK_SECONDS = 2.0


class CountingApi(AnthropicApi):
    """A client of the API that counts its calls by name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        super().__init__()

    def list_batches(self, *args: Any, **options: Any) -> Any:
        self.calls["list"] += 1
        return super().list_batches(*args, **options)

    def retrieve_batch(self, *args: Any, **options: Any) -> Any:
        self.calls["retrieve"] += 1
        return super().retrieve_batch(*args, **options)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--batches", type=int, default=1_000, help="of all nights, in flight")
    options = made.parse_args()
    most = 90 if options.quick else options.batches
    print(f"\n(d) a poll and a sensor tick, batches of {NIGHTS} nights in flight")
    for batches in (10, most):
        nights = min(NIGHTS, batches)
        with tempfile.TemporaryDirectory() as temporary, sink(1e9) as url:
            folder = Path(temporary)
            for night in range(nights):
                count = batches // nights + (night < batches % nights)
                write_documents(folder / f"2026-01-{night + 1:02}.jsonl", count, 5)
            jobs = declare(
                folder / "jobs",
                f"{folder}/{{partition}}.jsonl",
                partitions={"start": "2026-01-01"},
                limits={"max_requests_per_batch": 1},
            )
            os.environ.update(environment(url, folder / "home", jobs))
            api = CountingApi()
            with Pipeline(Settings.from_environment(), api) as pipeline:
                spec = find_job(pipeline.settings.jobs_dir, "bench")
                _submit(pipeline, spec, nights)
                _measure(pipeline, spec, api, batches)


def _submit(pipeline: Pipeline, spec: JobSpec, nights: int) -> None:
    for number in range(nights):
        night = steps.open_night(pipeline, spec, f"2026-01-{number + 1:02}")
        night_input.take_input(pipeline, spec, night)
        steps.run_pilot(pipeline, spec, night)
        steps.submit(pipeline, spec, night)


def _measure(pipeline: Pipeline, spec: JobSpec, api: CountingApi, batches: int) -> None:
    account = pipeline.owner(spec).accounts[0]
    _timed(api, f"poll, {batches:,} batches", lambda: steps.poll_account(pipeline, account))

    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return sensor.tick(context, lambda: Pipeline(pipeline.settings, api), spec)

    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance)
        first = tick(context)
        assert not first.run_requests
        observed = dg.build_sensor_context(instance=instance, cursor=first.cursor)
        seconds = _timed(api, f"tick, {batches:,} batches", lambda: tick(observed))
    verdict("tick, seconds", seconds, f"under {TICK_SECONDS:g}", met=seconds < TICK_SECONDS)


def _timed(api: CountingApi, title: str, step: Callable[[], object]) -> float:
    """The seconds of a step, printed with its calls to the API."""
    api.calls.clear()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    calls = ", ".join(f"{count} {name}" for name, count in sorted(api.calls.items())) or "none"
    print(f"  {title}: {seconds * 1e3:.0f} ms, calls: {calls}", flush=True)
    return seconds


if __name__ == "__main__":
    main()
