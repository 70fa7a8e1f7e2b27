"""Counts of first attempts that the API worked on: what the circuit breaker judges by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from batch_pipeline.flow.answers.outcomes import DOCUMENT_CHANGED, Action, Outcome
from batch_pipeline.ledger.sums import EXAMPLES

# Types of error that the ledger keeps for each submission, the most frequent ones: a systematic
# error is among them.
MOST_ERRORS = 5
# Of an error message, which the ledger keeps for ever; the answer files have it whole.
MESSAGE_CHARACTERS = 300


@dataclass
class FirstAttempts:
    """First attempts that the API worked on: `done`, of which `needs_fix` were set aside.

    `errors` counts the latter by type of error; `examples` are up to three `id: message` of each.
    """

    done: int = 0
    needs_fix: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def count(self, item_id: str, attempt: int, outcome: Outcome) -> None:
        """Count one result, unless it is sent again anyway or was not the first attempt.

        A document that has changed was not sent: neither prompt nor schema is at fault.
        """
        if outcome.error_type == DOCUMENT_CHANGED:
            return
        needs_fix = outcome.action is Action.SET_ASIDE
        if attempt != 1 or not (needs_fix or outcome.action is Action.KEEP):
            return
        self.done += 1
        if needs_fix:
            kind = _storable(outcome.error_type or str(outcome.status))
            self.needs_fix += 1
            self.errors[kind] += 1
            message = (outcome.error_message or "no message")[:MESSAGE_CHARACTERS]
            self._keep_examples(kind, [_storable(f"{item_id}: {message}")])

    def add(self, other: FirstAttempts) -> None:
        self.done += other.done
        self.needs_fix += other.needs_fix
        self.errors.update(other.errors)
        for kind, examples in other.examples.items():
            self._keep_examples(kind, examples)

    def most_frequent(self) -> FirstAttempts:
        """The same with the most frequent errors alone: what the ledger keeps of a submission."""
        errors = Counter(dict(self.errors.most_common(MOST_ERRORS)))
        examples = {kind: self.examples.get(kind, []) for kind in errors}
        return FirstAttempts(self.done, self.needs_fix, errors, examples)

    def _keep_examples(self, kind: str, examples: Iterable[str]) -> None:
        kept = self.examples.setdefault(kind, [])
        kept.extend(list(examples)[: EXAMPLES - len(kept)])


def _storable(text: str) -> str:
    """A text without NUL characters, which PostgreSQL does not store."""
    return text.replace("\0", "\ufffd")
