"""The prompt cache of the simulated organisation: which tokens of a prompt are written, which read.

Belongs here: how entries come, are found and expire. What is known of the API and what is assumed
stands in docs/simulator.md.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from batch_pipeline.simulator.answers.tokens import TOKENS_PER_REQUEST, lifetime_of, segments
from batch_pipeline.simulator.models import MODELS

LIFETIME_SECONDS = {"5m": 300.0, "1h": 3_600.0}
# A mark finds entries that end at most this number of blocks before it, its own block included.
LOOKBACK_BLOCKS = 20
# A batch is worked on in this number of parts, one after the other; the requests of a part run at
# the same time.
PARTS_OF_A_BATCH = 4
# The least time that a part takes: batches that end at once have an order too.
PART_SECONDS = 1e-3
# The share of a batch's requests that find an entry which is there.
DEFAULT_HITS = 0.9


@dataclass(frozen=True)
class Work:
    """When and where a request is worked on: seconds since the epoch, and the workspace as text.

    `hits` is the chance that it finds an entry which is there.
    """

    begin: float
    end: float
    workspace: str = ""
    hits: float = 1.0

    @classmethod
    def now(cls, seconds: float = 0.0, workspace: str = "") -> Work:
        """A real-time message that takes `seconds`."""
        at = time.time()
        return cls(at, at + seconds, workspace)


class Split(NamedTuple):
    """The input tokens of a request by class."""

    uncached: int
    written_5m: int
    written_1h: int
    read: int


@dataclass
class _Entry:
    readable_at: float
    expires_at: float
    lifetime: float


class PromptCache:
    """The prefixes that were written, by workspace and model; safe for many threads."""

    def __init__(self, batch_hits: float = DEFAULT_HITS) -> None:
        self.batch_hits = batch_hits
        self._entries: dict[bytes, _Entry] = {}
        self._lock = threading.Lock()

    def pass_time(self, seconds: float) -> None:
        """Let entries grow older by `seconds`, as if that time had passed."""
        with self._lock:
            for entry in self._entries.values():
                entry.readable_at -= seconds
                entry.expires_at -= seconds

    def split(self, params: dict[str, Any], work: Work | None = None) -> Split:
        """The input tokens of a request by class; its writes and reads are remembered."""
        found = list(segments(params))
        total = TOKENS_PER_REQUEST + sum(tokens for tokens, _, _ in found)
        automatic = lifetime_of(params)  # `cache_control` at the top level marks the last block
        if automatic is not None and found:
            found[-1] = (*found[-1][:2], automatic)
        if all(lifetime is None for _, _, lifetime in found):
            return Split(total, 0, 0, 0)
        with self._lock:
            return self._at_marks(params, found, total, work or Work.now())

    def _at_marks(
        self, params: dict[str, Any], found: list[tuple[int, Any, str | None]], total: int,
        work: Work,
    ) -> Split:  # fmt: skip
        keys, ends = _prefixes(params, found, work.workspace)
        least = MODELS[params["model"]].cached_from
        marks = [
            (place, lifetime)
            for place, (_, _, lifetime) in enumerate(found)
            if lifetime is not None and ends[place] >= least
        ]
        read_to = -1
        if _is_lucky(keys[-1], work):
            read_to = max(
                (
                    place
                    for mark, _ in marks
                    for place in range(max(0, mark - LOOKBACK_BLOCKS + 1), mark + 1)
                    if self._is_readable(keys[place], work)
                ),
                default=-1,
            )
        if read_to >= 0:
            # A read makes the entry last as long again, free of charge.
            entry = self._entries[keys[read_to]]
            entry.expires_at = max(entry.expires_at, work.end + entry.lifetime)
        done = read = ends[read_to] if read_to >= 0 else 0
        written = {"5m": 0, "1h": 0}
        for place, lifetime in marks:
            if place <= read_to:
                continue
            written[lifetime] += ends[place] - done
            done = ends[place]
            self._write(keys[place], lifetime, work)
        return Split(total - done, written["5m"], written["1h"], read)

    def _is_readable(self, key: bytes, work: Work) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.readable_at <= work.begin < entry.expires_at

    def _write(self, key: bytes, lifetime: str, work: Work) -> None:
        """An entry can be read once the answer of the request that wrote it has begun: here, once
        that request has ended."""
        seconds = LIFETIME_SECONDS[lifetime]
        former = self._entries.get(key)
        if former is None or former.expires_at <= work.begin:
            self._entries[key] = _Entry(work.end, work.end + seconds, seconds)
            return
        former.readable_at = min(former.readable_at, work.end)
        former.expires_at = max(former.expires_at, work.end + seconds)
        former.lifetime = max(former.lifetime, seconds)


def _prefixes(
    params: dict[str, Any], found: list[tuple[int, Any, str | None]], workspace: str
) -> tuple[list[bytes], list[int]]:
    """For each block the key of the prompt up to its end, and the tokens up to there.

    A schema, an effort and thinking count as the beginning of the prompt: another one finds no
    entry. `max_tokens` is no part of a prompt.
    """
    model = MODELS[params["model"]].id  # an alias reads what the full name has written
    common = [workspace, model, *(params.get(name) for name in ("output_config", "thinking"))]
    prefix = hashlib.sha256(orjson.dumps(common, option=orjson.OPT_SORT_KEYS))
    keys: list[bytes] = []
    ends: list[int] = []
    end = 0
    for tokens, block, _ in found:
        prefix.update(_without_mark(block))
        end += tokens
        keys.append(prefix.digest()[:16])
        ends.append(end)
    return keys, ends


def _without_mark(block: Any) -> bytes:
    if isinstance(block, str):
        block = {"type": "text", "text": block}
    if isinstance(block, dict):
        block = {key: value for key, value in block.items() if key != "cache_control"}
    return orjson.dumps(block, option=orjson.OPT_SORT_KEYS)


def _is_lucky(key: bytes, work: Work) -> bool:
    """Whether a request finds what is there: by its content, never by the clock."""
    return int.from_bytes(key[:4], "big") < work.hits * 2**32


def parts_of(begin: float, end: float, requests: int) -> list[tuple[float, float]]:
    """When each of a batch's requests is worked on, given when the batch was."""
    seconds = max((end - begin) / PARTS_OF_A_BATCH, PART_SECONDS)
    each = max(1, -(-requests // PARTS_OF_A_BATCH))
    parts = [(begin + n * seconds, begin + (n + 1) * seconds) for n in range(PARTS_OF_A_BATCH)]
    return [parts[number // each] for number in range(requests)]
