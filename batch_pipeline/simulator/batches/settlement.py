"""Settles a batch that has ended: answers its requests, writes the results, adds up the bill.

A batch is settled once, by the first call that sees its end; all downloads give the same lines.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from batch_pipeline.simulator.answers.content import answer, searches
from batch_pipeline.simulator.answers.prompt_cache import PromptCache, Work, parts_of
from batch_pipeline.simulator.answers.schemas import UnsatisfiableError
from batch_pipeline.simulator.answers.source_text import Dice
from batch_pipeline.simulator.answers.tokens import usage
from batch_pipeline.simulator.batches.spool import request_lines
from batch_pipeline.simulator.books.bills import Bill
from batch_pipeline.simulator.checking.checks import check_message
from batch_pipeline.simulator.faults.requests import RequestFaultInjection
from batch_pipeline.simulator.models import MODELS
from batch_pipeline.simulator.wire import (
    MAX_BYTES_PER_REQUEST,
    ApiError,
    error_body,
    invalid_request,
    too_large,
)

# Results are shuffled within blocks of this size: out of order, without all lines in memory.
_BLOCK_BYTES = 4 << 20


class Responder:
    """Answers requests, in batches and in real time, with one seed and one prompt cache."""

    def __init__(self, seed: int, cache: PromptCache) -> None:
        self.seed = seed
        self.cache = cache

    def message(
        self, params: dict[str, Any], digest: bytes, message_id: str, service_tier: str,
        work: Work | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The Messages API's answer to checked params.

        `work` tells when the request is worked on, for the prompt cache; None: now.

        Errors: `ApiError` 400 for a schema that no value fits.
        """
        try:
            said = answer(params, digest, self.seed)
        except UnsatisfiableError as error:
            raise invalid_request(f"schema: {error}") from None
        return {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": MODELS[params["model"]].id,  # the full name, for an alias too
            "content": said.content,
            "stop_reason": said.stop_reason,
            "stop_sequence": said.stop_sequence,
            "usage": usage(
                params,
                self.cache.split(params, work),
                output_tokens=said.output_tokens,
                thinking_tokens=said.thinking_tokens,
                service_tier=service_tier,
                searches=searches(params, digest),
            ),
        }


@dataclass(frozen=True)
class Settlement:
    """`counts` as in `request_counts` of an ended batch, and its bill.

    `attempted`: content digests of the requests that were neither canceled nor expired.
    """

    counts: dict[str, int]
    bill: Bill
    attempted: list[bytes]


def settle(
    requests: Path, results: Path, responder: Responder, injection: RequestFaultInjection,
    *, version: str, done: int, rest: str, work: Work,
) -> Settlement:  # fmt: skip
    """Answer the first `done` requests, give all others the result `rest`, and write the lines.

    `rest` is `canceled` or `expired`, `work` tells when the batch was worked on. `results` appears
    whole or not at all.
    """
    parts = parts_of(work.begin, work.end, done)
    attempted: list[bytes] = []
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    bill = Bill(batch=True)
    dice = Dice(responder.seed)
    temporary = results.with_suffix(".settling")
    block: list[bytes] = []
    size = 0
    with temporary.open("wb") as file:
        for position, (custom_id, digest, raw) in enumerate(request_lines(requests)):
            if position < done:
                unique = hashlib.sha256(f"{results.stem}/{custom_id}".encode()).hexdigest()[:22]
                begin, end = parts[position]
                at = replace(work, begin=begin, end=end)
                result = _result(raw, digest, unique, responder, version, at)
                result = injection.result(digest, raw, result, unique)
                attempted.append(digest)
            else:
                result = {"type": rest}
            # A result of an unknown type counts as errored.
            counts[result["type"] if result["type"] in counts else "errored"] += 1
            if result["type"] == "succeeded":
                bill.add(digest, result["message"]["model"], result["message"]["usage"])
            line = orjson.dumps({"custom_id": custom_id, "result": result}) + b"\n"
            block.append(line)
            size += len(line)
            if size >= _BLOCK_BYTES:
                file.write(_shuffled(block, dice))
                block, size = [], 0
        file.write(_shuffled(block, dice))
    temporary.replace(results)
    return Settlement(counts, bill, attempted)


def _result(
    raw: bytes, digest: bytes, unique: str, responder: Responder, version: str, work: Work
) -> dict[str, Any]:
    params = orjson.loads(raw)
    try:
        if len(raw.removesuffix(b"\n")) > MAX_BYTES_PER_REQUEST:
            raise too_large()
        if (problem := check_message(params, version)) is not None:
            raise problem
        message = responder.message(params, digest, f"msg_01{unique}", "batch", work)
    except ApiError as problem:
        # In a batch an unknown model is an invalid request, not the 404 of a real-time message.
        kind = problem.kind if problem.status == 413 else "invalid_request_error"
        error = error_body(kind, problem.message, f"req_01{unique}", problem.details)
        return {"type": "errored", "error": error}
    return {"type": "succeeded", "message": message}


def _shuffled(lines: list[bytes], dice: Dice) -> bytes:
    """The lines in another order; two different lines or more never keep theirs."""
    order = list(lines)
    dice.shuffle(order)
    return b"".join(order if order != lines else reversed(lines))
