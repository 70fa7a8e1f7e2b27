"""Decides which fault the next call, batch or request suffers.

All chance comes from the simulator's seed and the number of earlier calls. Nothing here touches
HTTP. Safe for many threads; the declaration may be replaced at any time.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

from batch_pipeline.simulator.faults.declaration import BATCH_ENDPOINTS, Endpoint, Faults
from batch_pipeline.simulator.faults.kinds import AnyFault


def throw(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends on the arguments alone."""
    text = "|".join(map(str, (seed, *parts))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / (1 << 64)


class FaultSchedule:
    """The declared faults, and the number of calls that each script has seen."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self.seed = seed
        self._lock = threading.Lock()
        self.replace(faults)

    @property
    def faults(self) -> Faults:
        return self._faults

    def replace(self, faults: Faults) -> None:
        """Declare these faults from now on; all counts begin again."""
        with self._lock:
            self._faults = faults
            self._faultless = frozenset() if faults.outages else _faultless(faults)
            self._outage_calls: Counter[int] = Counter()
            self._script_calls: Counter[tuple[Endpoint, str]] = Counter()
            self._chance_calls: Counter[Endpoint] = Counter()
            self._batches = 0
            self._creates = 0

    def is_faultless(self, endpoint: Endpoint) -> bool:
        """Whether no fault is declared for an endpoint, so that its calls are not counted."""
        return endpoint in self._faultless

    def next_fault(self, endpoint: Endpoint, *, key: str, batch_id: str) -> AnyFault | None:
        """This call's fault: an outage, else the script's step, else a chance that hits."""
        with self._lock:
            return (
                self._outage(endpoint, key)
                or self._step(endpoint, batch_id)
                or self._chance(endpoint)
            )

    def _outage(self, endpoint: Endpoint, key: str) -> AnyFault | None:
        found: AnyFault | None = None
        for number, outage in enumerate(self._faults.outages):
            if outage.covers(endpoint, key):
                self._outage_calls[number] += 1
                if found is None and outage.hits(self._outage_calls[number]):
                    found = outage.fault
        return found

    def _step(self, endpoint: Endpoint, batch_id: str) -> AnyFault | None:
        declared = getattr(self._faults, endpoint)
        counted = self._counted(endpoint, batch_id)
        call = self._script_calls[counted]
        self._script_calls[counted] += 1
        return next((step for past, step in _ends(declared.script) if call < past), None)

    def give_back(self, endpoint: Endpoint, batch_id: str) -> None:
        """Keep the step of a call that could not suffer it for the next call."""
        with self._lock:
            counted = self._counted(endpoint, batch_id)
            self._script_calls[counted] = max(0, self._script_calls[counted] - 1)

    def _counted(self, endpoint: Endpoint, batch_id: str) -> tuple[Endpoint, str]:
        one_each = endpoint in BATCH_ENDPOINTS and getattr(self._faults, endpoint).per_batch
        return endpoint, batch_id if one_each else ""

    def _chance(self, endpoint: Endpoint) -> AnyFault | None:
        self._chance_calls[endpoint] += 1
        call = self._chance_calls[endpoint]
        for number, chance in enumerate(getattr(self._faults, endpoint).chances):
            if throw(self.seed, endpoint, number, call) < chance.probability:
                fault: AnyFault = chance.fault
                return fault
        return None

    def share_done_of_next_batch(self) -> float | None:
        """The share of a new batch that is answered before it expires; None: it does not."""
        expired = self._faults.expired_batches
        with self._lock:
            self._batches += 1
            number = self._batches
        if number <= expired.first or throw(self.seed, "expired", number) < expired.probability:
            return expired.done
        return None

    def foreign_batches_of_next_create(self) -> tuple[bool, bool]:
        """Whether other tenants create a batch (just before, just after) the next create call."""
        foreign = self._faults.foreign_batches
        with self._lock:
            self._creates += 1
            number = self._creates
        before, after = (
            foreign.when in (moment, "both")
            and throw(self.seed, "foreign", moment, number) < foreign.probability
            for moment in ("before", "after")
        )
        return before, after


def _faultless(faults: Faults) -> frozenset[Endpoint]:
    declared = ((endpoint, getattr(faults, endpoint)) for endpoint in get_args(Endpoint))
    return frozenset(name for name, one in declared if not one.script and not one.chances)


def _ends(script: Sequence[AnyFault]) -> Iterator[tuple[int, AnyFault]]:
    """Pairs of the number of calls after which a step is over, and the step."""
    past = 0
    for step in script:
        past += step.times
        yield past, step
