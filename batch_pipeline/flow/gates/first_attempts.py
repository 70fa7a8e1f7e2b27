"""First attempts that the API worked on, counted: what the circuit breaker judges by.

What will be sent again by itself (expired, overloaded, cancelled) is no evidence and never counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from batch_pipeline.flow.outcomes import Action, Outcome

# Kept of each submission: more kinds of error than these are not systematic.
MOST_ERRORS = 5
EXAMPLES = 3
# The ledger keeps them for ever; the whole messages are in the answers.
MESSAGE_CHARACTERS = 300


@dataclass
class FirstAttempts:
    """First attempts that were worked on: `done` of them, of which `needs_fix` were set aside.

    `errors` counts the latter by error type; `examples` are up to three `id: message` of each.
    """

    done: int = 0
    needs_fix: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def count(self, item_id: str, attempt: int, outcome: Outcome) -> None:
        """Take one result into account, if it is evidence."""
        needs_fix = outcome.action is Action.SET_ASIDE
        if attempt != 1 or not (needs_fix or outcome.action is Action.KEEP):
            return
        self.done += 1
        if needs_fix:
            kind = outcome.error_type or str(outcome.status)
            self.needs_fix += 1
            self.errors[kind] += 1
            message = (outcome.error_message or "no message")[:MESSAGE_CHARACTERS]
            self._keep_examples(kind, [f"{item_id}: {message}"])

    def add(self, summary: Mapping[str, Any]) -> None:
        """Add what a submission's summary says."""
        self.done += summary["done"]
        self.needs_fix += summary["needs_fix"]
        self.errors.update(summary["errors"])
        for kind, examples in summary["examples"].items():
            self._keep_examples(kind, examples)

    def as_json(self, most: int = MOST_ERRORS) -> dict[str, Any]:
        """For a submission's summary; the most frequent errors only."""
        errors = dict(self.errors.most_common(most))
        examples = {kind: self.examples.get(kind, []) for kind in errors}
        return {
            "done": self.done,
            "needs_fix": self.needs_fix,
            "errors": errors,
            "examples": examples,
        }

    def _keep_examples(self, kind: str, examples: Iterable[str]) -> None:
        kept = self.examples.setdefault(kind, [])
        kept.extend(list(examples)[: EXAMPLES - len(kept)])
