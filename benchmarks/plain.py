"""The plain way: what a competent user writes with the official SDK in twenty lines.

Requests as a list of dicts within both limits of a batch, `batches.create`, polling, and the SDK's
own iterator over the results into a JSONL file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic

from benchmarks.corpus import MAX_TOKENS, MODEL, SYSTEM, USER


def batches(path: Path, max_requests: int, max_bytes: int) -> Iterator[list[Any]]:
    requests: list[Any] = []
    size = 0
    with path.open() as lines:
        for number, line in enumerate(lines):
            prompt = USER.replace("{text}", json.loads(line)["text"])
            if len(requests) == max_requests or size + len(prompt) + 400 > max_bytes:
                yield requests
                requests, size = [], 0
            params = {
                "model": MODEL,
                "max_tokens": MAX_TOKENS,
                "system": SYSTEM,
                "messages": [{"role": "user", "content": prompt}],
            }
            requests.append({"custom_id": f"item-{number}", "params": params})
            size += len(prompt) + 400
    yield requests


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("input", type=Path)
    made.add_argument("--results", type=Path, help="wait for the batches and write their results")
    made.add_argument("--max-requests", type=int, default=10_000)
    made.add_argument("--max-bytes", type=int, default=255_000_000)
    options = made.parse_args()
    client = anthropic.Anthropic(max_retries=0)
    waiting = [
        client.messages.batches.create(requests=requests).id
        for requests in batches(options.input, options.max_requests, options.max_bytes)
    ]
    if options.results is None:
        return
    with options.results.open("w") as file:
        while waiting:
            time.sleep(1)
            for batch_id in list(waiting):
                if client.messages.batches.retrieve(batch_id).processing_status != "ended":
                    continue
                for line in client.messages.batches.results(batch_id):
                    file.write(line.model_dump_json() + "\n")
                waiting.remove(batch_id)


if __name__ == "__main__":
    main()
