"""A process's lease on a submission, kept alive while a body is uploaded or calls are made.

Belongs here: how a holder keeps its lease, and how it notices that it was frozen (a suspended
machine, SIGSTOP). What the ledger does with a lease that has run out stands in
`ledger.processes.leases`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger.database.ledger import steady
from batch_pipeline.ledger.processes import leases
from batch_pipeline.ledger.processes.heartbeat import beating
from batch_pipeline.ledger.submissions.submissions import Submission


class Lease:
    """This process's hold on a submission, as far as the process knows without asking the ledger.

    A lease that was renewed less than half its duration ago is certainly valid. After a longer gap
    the process may have been frozen, and another one may have taken the submission over.
    """

    def __init__(self, pipeline: Pipeline, submission: Submission) -> None:
        self._pipeline = pipeline
        self._submission = submission
        self._seconds = pipeline.settings.lease_seconds
        self._renewed_at = steady()
        self._lost = False

    def renew(self) -> bool:
        """Extend the lease in the ledger; False: the submission was taken over or settled."""
        at = steady()
        with self._pipeline.ledger.write() as connection:
            self._lost = not leases.keep_alive(connection, self._submission, self._seconds)
        self._renewed_at = at
        return not self._lost

    def held(self) -> bool:
        """Whether this process still holds the submission; asks the ledger only after a gap."""
        if self._lost:
            return False
        return steady() - self._renewed_at < self._seconds / 2 or self.renew()


@contextmanager
def renewed_lease(pipeline: Pipeline, submission: Submission) -> Iterator[Lease]:
    """Renew a submission's lease from a thread while the block runs.

    A thread, because an upload may block for longer than a lease lasts.
    """
    lease = Lease(pipeline, submission)
    seconds = pipeline.settings.lease_seconds / 4
    with beating(f"lease-{submission.token}", seconds, lease.renew):
        yield lease
