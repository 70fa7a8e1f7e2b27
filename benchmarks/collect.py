"""(b) Collect: from ended batches to results, against the plain SDK way and against the floor.

The floor is what Arrow's own JSON reader takes to write zstd Parquet with the columns of results,
without checking the lines. All three ways download the same batches, each in a process of its own.
The ratios leave out imports, which do not grow with the number of lines. CPU seconds are printed
too: they stay comparable when other processes use the machine.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.corpus import declare, write_documents
from benchmarks.measure import (
    PYTHON,
    Usage,
    environment,
    measured,
    parser,
    run_job,
    show,
    sink,
    verdict,
)
from benchmarks.sink import TOOL

FASTER, OF_FLOOR = 5.0, 2.5
BLOCK_BYTES = 8 << 20


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--documents", type=int, default=100_000)
    made.add_argument("--answer-characters", type=int, default=200)
    made.add_argument("--tool-calls", action="store_true", help="answers that call a tool")
    made.add_argument("--items", type=int, default=1, help="that each request answers")
    options = made.parse_args()
    count = 5_000 if options.quick else options.documents
    served = ["--answer-characters", str(options.answer_characters)]
    asked: dict[str, Any] = {}
    if options.tool_calls:
        served.append("--tool-calls")
        tool = {"name": TOOL, "input_schema": {"type": "object"}}
        asked = {"tools": [tool], "tool_choice": {"type": "tool", "name": TOOL}}
    with tempfile.TemporaryDirectory() as temporary, sink(0.0, *served) as url:
        folder = Path(temporary)
        source = write_documents(folder / "input.jsonl", count, 10, items=options.items)
        jobs = declare(folder / "jobs", source, params=asked)
        environ = environment(url, folder / "home", jobs, max_queued_requests=10**9)
        run_job(environ, "--no-wait")
        ways: dict[str, tuple[Usage, int]] = {}
        for name, way in (("plain SDK", "plain"), ("floor", "floor"), ("batch-pipeline", "ours")):
            command = [PYTHON, "-m", "benchmarks.collect", f"--way={way}", str(folder / way)]
            ways[name] = (measured(command, environ), count)
    kind = "calls of a tool" if options.tool_calls else "answers"
    items = f", each for {options.items} items" if options.items > 1 else ""
    show(f"(b) collect {count:,} {kind} of {options.answer_characters} characters{items}", ways)
    took = [[float(value) for value in usage.output.split()[-2:]] for usage, _ in ways.values()]
    for name, (seconds, cpu_seconds) in zip(ways, took, strict=True):
        print(f"  without imports: {name} {seconds:.2f} s, {cpu_seconds:.2f} s of CPU time")
    plain, floor, ours = (seconds for seconds, _ in took)
    faster, of_floor = plain / ours, ours / floor
    verdict("times as fast as plain", faster, f"at least {FASTER:g}", met=faster >= FASTER)
    verdict("of the floor's time", of_floor, f"at most {OF_FLOOR:g}", met=of_floor <= OF_FLOOR)


@contextmanager
def timed() -> Iterator[None]:
    """Print the wall-clock and the CPU seconds that the block takes, as a way's last line."""
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    print(time.perf_counter() - start, time.process_time() - cpu_start)


def plain(target: Path) -> None:
    import anthropic  # noqa: PLC0415  # each way has its own imports

    client = anthropic.Anthropic()
    with timed(), target.open("w") as file:
        for batch in client.messages.batches.list(limit=1000):
            for line in client.messages.batches.results(batch.id):
                file.write(line.model_dump_json() + "\n")


def floor(target: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.json as pj  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    text = pa.string()
    target.mkdir()
    with timed():
        for batch_id in _listed():
            response = urllib.request.urlopen(_request(f"/{batch_id}/results"))
            lines = pj.read_json(response, pj.ReadOptions(block_size=BLOCK_BYTES))
            count = lines.num_rows
            message = pc.struct_field(lines["result"], "message")
            usage = pc.struct_field(message, "usage")
            content = pc.list_element(pc.struct_field(message, "content"), 0)
            tokens = {
                name: pc.struct_field(usage, name)
                for name in (
                    "input_tokens", "output_tokens", "cache_creation_input_tokens",
                    "cache_read_input_tokens",
                )
            }  # fmt: skip
            table = pa.table(
                {
                    "id": lines["custom_id"],
                    "status": pc.struct_field(lines["result"], "type"),
                    "content": _text(content),
                    "parsed": pa.nulls(count, text),
                    "stop_reason": pc.struct_field(message, "stop_reason"),
                    "error_type": pa.nulls(count, text),
                    "error_message": pa.nulls(count, text),
                    "model": pc.struct_field(message, "model"),
                    **tokens,
                    "cache_write_1h_tokens": pa.repeat(0, count),
                    "cost_usd": pa.repeat(0.001, count),
                    "attempt": pa.repeat(1, count),
                    "mode": pa.repeat("batch", count),
                    "batch_id": pa.repeat(batch_id, count),
                    "custom_id": lines["custom_id"],
                    "fingerprint": pc.struct_field(message, "id"),
                    "simulated": pa.repeat(True, count),
                    "collected_at": pa.repeat(time.time(), count),
                }
            )
            pq.write_table(table, target / f"{batch_id}.parquet", compression="zstd")


def _text(content: Any) -> Any:
    """The text of an answer, or the one input of a call of the sink's tool."""
    import pyarrow.compute as pc  # noqa: PLC0415

    called = content.type.get_field_index("text") < 0
    return pc.struct_field(content, ["input", "answer"] if called else ["text"])


def ours(_target: Path) -> None:
    """Validation, deduplication, counts, the raw lines and the ledger included."""
    from batch_pipeline.flow import steps  # noqa: PLC0415
    from batch_pipeline.flow.pipeline import Pipeline  # noqa: PLC0415
    from batch_pipeline.jobs.yaml_files.loading import find_job  # noqa: PLC0415
    from batch_pipeline.settings import Settings  # noqa: PLC0415

    pipeline = Pipeline(Settings.from_environment())
    spec = find_job(pipeline.settings.jobs_dir, "bench")
    night = steps.open_night(pipeline, spec, "all")
    steps.poll_account(pipeline, night.owner)
    with timed():
        collected = steps.collect_ended(pipeline, spec, night)
    assert collected == len(list(_listed())), collected


def _request(path: str) -> urllib.request.Request:
    url = f"{os.environ['ANTHROPIC_BASE_URL']}/v1/messages/batches{path}"
    headers = {"x-api-key": "benchmark", "anthropic-version": "2023-06-01"}
    return urllib.request.Request(url, headers=headers)


def _listed() -> Iterator[str]:
    page: dict[str, Any] = json.load(urllib.request.urlopen(_request("?limit=1000")))
    return (batch["id"] for batch in page["data"])


WAYS = {"plain": plain, "floor": floor, "ours": ours}


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("--way="):
        WAYS[sys.argv[1].removeprefix("--way=")](Path(sys.argv[2]))
    else:
        main()
