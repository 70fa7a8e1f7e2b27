"""(j) The CPU of a small run under Dagster, by its parts: a night of 24 documents is submitted.

Several processes each measure all parts once, on a new instance; the least of each part counts.
Dagster's own parts are its imports, its instance, and a run with the same number of steps that do
nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.corpus import declare, write_documents
from benchmarks.measure import environment, parser, sink

DOCUMENTS = 24
RUN = """
import json, sys, time
parts, began = {}, 0.0
def part(name):
    global began
    now = time.process_time()
    parts[name], began = now - began, now
part("python")
import dagster as dg
part("dagster: imports")
instance = dg.DagsterInstance.get()
instance.get_runs(limit=1)
part("dagster: instance")
def nothing(name, deps):
    @dg.multi_asset(name=name, specs=[dg.AssetSpec(name, deps=deps)])
    def step():
        yield dg.MaterializeResult(asset_key=name, metadata={"a": 1})
    return step
steps = [nothing("a", []), nothing("b", ["a"]), nothing("c", ["b"])]
empty = dg.Definitions(assets=steps, executor=dg.in_process_executor)
empty.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
part("dagster: a run of three steps that do nothing")
from batch_pipeline.definitions import defs
job = defs().resolve_job_def(sys.argv[1])
part("ours: definitions")
import anthropic
part("the SDK")
from batch_pipeline.orchestration.steps import submit_steps
part("ours: the flow")
assert job.execute_in_process(instance=instance, partition_key="all").success
part("the run itself")
json.dump(parts, open(sys.argv[2], "w"))
"""


def main() -> None:
    options = parser(__doc__).parse_args()
    least: dict[str, float] = defaultdict(lambda: float("inf"))
    for _ in range(1 if options.quick else 5):
        with tempfile.TemporaryDirectory() as temporary, sink(1e9) as url:
            for name, seconds in _parts(Path(temporary), url).items():
                least[name] = min(least[name], seconds)
    print(f"\n(j) seconds of CPU of a run that sends {DOCUMENTS} documents")
    for name, seconds in least.items():
        print(f"  {seconds:5.2f}  {name}")
    print(f"  {sum(least.values()):5.2f}  together")


def _parts(folder: Path, url: str) -> dict[str, float]:
    """The CPU of each part of one run, by its name, in seconds."""
    write_documents(folder / "input.jsonl", DOCUMENTS, 5)
    jobs = declare(folder / "jobs", folder / "input.jsonl")
    instance = folder / "dagster"
    instance.mkdir()
    (instance / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    environ = {**os.environ, **environment(url, folder / "home", jobs)}
    written = folder / "parts.json"
    subprocess.run(
        [sys.executable, "-c", RUN, "bench_submit", str(written)],
        env={**environ, "DAGSTER_HOME": str(instance)},
        check=True,
        stderr=subprocess.DEVNULL,
    )
    found: dict[str, float] = json.loads(written.read_text())
    return found


if __name__ == "__main__":
    main()
