"""What a night cost, computed a second time: from the API's own lines and the price list.

Nothing of the pipeline's own arithmetic is used, so that the two can disagree.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import zstandard

MILLION = Decimal(1_000_000)
# USD per million tokens of claude-haiku-4-5 in real time; a batch costs half of each.
INPUT, OUTPUT = Decimal(1), Decimal(5)
WRITE_5M, WRITE_1H, READ = Decimal("1.25"), Decimal(2), Decimal("0.1")


@dataclass(frozen=True)
class Bill:
    """USD billed each way, and all of it at the price of real time."""

    batch_usd: Decimal
    realtime_usd: Decimal

    @property
    def counterfactual_usd(self) -> Decimal:
        return 2 * self.batch_usd + self.realtime_usd


def bill_of(home: Path, job: str, partition: str = "all") -> Bill:
    """The bill of a night, from what is kept under `raw` and `raw_realtime`."""
    night = f"partition={partition}"
    batch = sum(map(_usd, _lines(home / job / "raw" / night)), Decimal(0))
    realtime = sum(map(_usd, _lines(home / job / "raw_realtime" / night)), Decimal(0))
    return Bill(batch / 2, realtime)


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl.zst")):
        seen = set()
        with (
            path.open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
        ):
            for line in io.BufferedReader(stream):
                data = json.loads(line)
                if data["custom_id"] not in seen:
                    seen.add(data["custom_id"])
                    yield data


def _usd(line: Mapping[str, Any]) -> Decimal:
    if line["result"]["type"] != "succeeded":
        return Decimal(0)
    usage = line["result"]["message"]["usage"]
    split = usage.get("cache_creation") or {}
    hour = split.get("ephemeral_1h_input_tokens") or 0
    five_minutes = (usage.get("cache_creation_input_tokens") or 0) - hour
    tokens = (
        INPUT * usage["input_tokens"]
        + OUTPUT * usage["output_tokens"]
        + WRITE_5M * five_minutes
        + WRITE_1H * hour
        + READ * (usage.get("cache_read_input_tokens") or 0)
    )
    return Decimal(tokens) / MILLION
