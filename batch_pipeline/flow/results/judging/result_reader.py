"""What one result says by itself, before it is known which attempt at which request it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow.answers import outcomes
from batch_pipeline.flow.answers.messages import AnswerReader, Tokens, tokens_of
from batch_pipeline.flow.answers.outcomes import Outcome
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates.billing import Bill
from batch_pipeline.flow.planning import further_turns
from batch_pipeline.flow.results.judging import details
from batch_pipeline.flow.results.judging.asked import Asked

# A message may quote the whole answer that it complains of.
MESSAGE_CHARACTERS = 1_000
NO_TOKENS = (0, 0, 0, 0, 0)
_NOTHING: Sequence[Any] = ()


class Read(NamedTuple):
    """What a result says by itself.

    `tokens` are None where the answer was billed and its tokens are not known; `bill` is None where
    the tokens are all that was billed. A paused answer has a `turn`, and perhaps a `container`.
    """

    outcome: Outcome
    content: str | None = None
    parsed: str | None = None
    stop_reason: str | None = None
    model: str | None = None
    tokens: Tokens | None = None
    bill: Bill | None = None
    details: str | None = None
    turn: str | None = None
    container: str | None = None


class ResultReader:
    """Reads the results of a submission, whose `manifest` has a row for each request.

    `pauses` are how often the API paused, by request: its answer goes on from the turns before.
    """

    def __init__(self, declaration: Declaration, manifest: pa.Table) -> None:
        self._answers = AnswerReader(declaration.output_schema)
        self.pauses: list[int] = pc.fill_null(manifest.column("continuations"), 0).to_pylist()
        self._turns = manifest.column("turns").to_pylist() if any(self.pauses) else None

    def read(
        self, asked: Asked, result: object, *, attempted: bool = True, number: int | None = None
    ) -> Read:
        """What a result says; one without a message that succeeded has cost nothing.

        `number` is that of its request: a message that succeeded needs the turns before it.
        """
        outcome = outcomes.of_result(result, asked.asked_for, attempted=attempted)
        if type(result) is not dict or result.get("type") != "succeeded":
            return Read(outcome, tokens=NO_TOKENS)
        message = result.get("message")
        if type(message) is not dict:
            return Read(outcome)
        pauses, paused = 0, _NOTHING
        if self._turns is not None and number is not None:
            pauses, paused = self.pauses[number], further_turns.paused_blocks(self._turns[number])
        outcome, content, parsed = self._answers.read(message, outcome, asked.asked_for, paused)
        more = details.of_message(message, asked.asked_for, asked.thinking, paused, pauses)
        stop_reason, model = message.get("stop_reason"), message.get("model")
        # What is no text cannot stand in a column of texts.
        stop_reason = None if stop_reason is None else str(stop_reason)
        model = None if model is None else str(model)
        tokens = tokens_of(message)
        bill = None if asked.biller.is_plain(message) else asked.biller.bill(message, tokens)
        turn = container = None
        if stop_reason == outcomes.PAUSE_TURN:
            turn, container = further_turns.pause_of(message)
        return Read(
            outcome, content, parsed, stop_reason, model, tokens, bill, more, turn, container
        )


def turn_bytes(read: Read) -> int:
    """The bytes that an answer would add to a further request; 0: it cannot be sent back.

    A call of a tool cannot be explained: what follows it in a request is the tool's result.
    """
    error, message = read.outcome.error_type, read.outcome.error_message or ""
    if read.stop_reason == outcomes.PAUSE_TURN:
        return further_turns.pause_bytes(read.turn, read.container)
    if error not in outcomes.EXPLICABLE or read.stop_reason == outcomes.TOOL_USE:
        return 0
    return further_turns.explanation_bytes(read.content or "", message[:MESSAGE_CHARACTERS])
