"""What the answers of a submission mean for what is asked next: which are sent back, and which wait
for the stronger model.

Belongs here: what is told of one answer when it is collected. How many are escalated is decided for
the whole night, when it is planned.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import pyarrow as pa

from batch_pipeline.flow.answers.outcomes import Action, Outcome, Status, Undecided
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.planning import variants
from batch_pipeline.flow.planning.further_turns import Requests
from batch_pipeline.flow.planning.variants import Ways
from batch_pipeline.flow.results.judging.unsure import Unsure
from batch_pipeline.jobs.spec import RetrySpec


class Escalating:
    """The requests of a manifest, by their numbers, and how each was asked.

    `unjudged` counts answers of which the rule does not tell whether they are sure.
    """

    def __init__(
        self,
        retry: RetrySpec,
        declaration: Declaration,
        manifest: pa.Table,
        unsure: Unsure | None,
    ) -> None:
        self._ways = Ways(retry, declaration)
        self._unsure = unsure
        self._asked = Requests(manifest)
        self._optional = manifest.column("optional").to_pylist()
        # Failed answers beyond this number are more than can be escalated. Rounded up: a night
        # may be cut into submissions of two requests, and the share is of the night.
        share = 0.0 if retry.escalate is None else retry.escalate.max_share
        self._most = ceil(share * manifest.num_rows - 1e-9)
        self._failed = self.unjudged = 0

    def is_optional(self, number: int) -> bool:
        """Whether a request has a former answer that stands if this one is no good."""
        return bool(self._optional[number])

    def after(self, number: int, outcome: Outcome, turn_bytes: int) -> Outcome:
        """What an answer that is no success means; see `Ways.after`."""
        return self._ways.after(self._asked[number], outcome, turn_bytes)

    def undecided(self, number: int, outcome: Outcome, *, final: bool) -> Undecided | None:
        """Why an answer that is no success is not final yet, beside that it is asked again."""
        if outcome.action is Action.ESCALATE:
            return Undecided.FAILED
        return Undecided.STANDS if final and self.is_optional(number) else None

    def as_first(self, number: int, tried: int, outcome: Outcome) -> tuple[int, Outcome]:
        """Which attempt an answer counts as for the breaker, and with what outcome.

        The breaker judges what a request comes to: an answer that is sent back counts once that was
        answered, and a failed one once the stronger model has answered, unless it is one of more
        than the share allows.
        """
        asked = self._asked.variants[number]
        if asked is not None:
            tried = variants.first_attempt(asked, tried)
        if outcome.action is Action.ESCALATE:
            self._failed += 1
            if self._failed > self._most:
                return tried, replace(outcome, action=Action.SET_ASIDE)
        elif asked is not None and variants.is_escalated(asked):
            return (0 if self.is_optional(number) else 1), outcome
        return tried, outcome

    def look_for_unsure(self, columns: dict[str, Any]) -> int:
        """Let the answers of a chunk that succeeded and are unsure not be final; returns how many.

        `columns` are those of `result_tables.JUDGED`.
        """
        if self._unsure is None:
            return 0
        known = zip(columns["number"], columns["final"], columns["status"], strict=True)
        places = [
            place
            for place, (number, final, status) in enumerate(known)
            if final and status is Status.SUCCEEDED and self._may_be_escalated(number)
        ]
        names = self._unsure.columns
        found = self._unsure.of([{name: columns[name][n] for name in names} for n in places])
        self.unjudged += found.unjudged
        final, escalate = list(columns["final"]), list(columns["escalate"])
        for place in (places[n] for n in found.unsure):
            final[place], escalate[place] = False, Undecided.UNSURE
        columns["final"], columns["escalate"] = final, escalate
        return len(found.unsure)

    def _may_be_escalated(self, number: int) -> bool:
        asked = self._asked[number]
        if variants.is_escalated(asked.variant):
            return False
        return self._ways.stronger(asked.route, asked.own_bytes) is not None
