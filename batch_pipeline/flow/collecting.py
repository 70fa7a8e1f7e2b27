"""Which ended submissions this process collects: one at a time, each claimed, whoever else does so.

Belongs here: claims and their signs of life. What collecting is stands in `collection`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Generator, Iterator

import sqlalchemy as sa

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.state import claims
from batch_pipeline.state.beat import beating
from batch_pipeline.state.nights import Night
from batch_pipeline.state.submissions import Submission


def claimed(pipeline: Pipeline, night: Night) -> Generator[Submission]:
    """The night's ended submissions that nobody else collects, each once, held while it is used."""
    after = 0
    while True:
        with pipeline.ledger.write() as connection:
            submission = claims.claim_ended(
                connection,
                night.id,
                pipeline.owner,
                pipeline.settings.lease_seconds,
                after=after,
                is_gone=is_gone,
            )
        if submission is None:
            return
        after = submission.id
        with _held(pipeline, submission):
            yield submission


def is_gone(owner: str) -> bool:
    """Whether a process of this machine that held a claim has ended; of another: not known."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def _held(pipeline: Pipeline, submission: Submission) -> Iterator[None]:
    """Extend the claim while the block runs, and give it up at its end."""
    seconds = pipeline.settings.lease_seconds

    def beat() -> bool:
        with pipeline.ledger.write() as connection:
            claims.keep(connection, submission, pipeline.owner, seconds)
        return True

    try:
        with beating(f"claim-{submission.token}", seconds / 4, beat):
            yield
    finally:
        # A ledger that cannot be written now ends in a lease that runs out: harmless.
        with contextlib.suppress(sa.exc.DBAPIError), pipeline.ledger.write() as connection:
            claims.release(connection, submission, pipeline.owner)
