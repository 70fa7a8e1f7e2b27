"""Asks the API about each account: whether it answers, and whose the key is.

Belongs here: what `batch-pipeline accounts` does beside showing the ledger. The probe itself is
the connection that every command makes; see `connections`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import BatchPipelineError, UsageError
from batch_pipeline.flow import organisation_limits
from batch_pipeline.flow.concurrency import map_in_threads
from batch_pipeline.flow.connections import UNUSABLE, Connected
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import outage
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.submissions import submissions

# Accounts that are asked at the same time: each waits for an API that may not answer.
AT_ONCE = 8


@dataclass(frozen=True)
class Probe:
    """What the API said to a declared account: its name in the ledger and the ids of the key, or
    why it cannot be used."""

    declared: str
    name: str | None = None
    organisation_id: str | None = None
    workspace_id: str | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "answers": self.error is None,
            "organisation_id": self.organisation_id,
            "workspace_id": self.workspace_id,
            "error": self.error,
        }


def probe(pipeline: Pipeline, declared: Sequence[str]) -> list[Probe]:
    """Connect each of these accounts, and note in the ledger whether that succeeds; one that fails
    leaves the others."""
    # Opened here: threads would each open their own.
    assert pipeline.ledger
    connections = pipeline.connections

    def ask(name: str) -> Connected | Exception:
        try:
            found = connections.connect(name)
            with outage.noted(pipeline, found.names.name):
                return found
        except (BatchPipelineError, ApiFailure) as error:
            return error

    probes = []
    for name, found in zip(declared, list(map_in_threads(ask, declared, AT_ONCE)), strict=True):
        if isinstance(found, Connected):
            api = found.api
            probes.append(Probe(name, found.names.name, api.organisation, api.workspace))
            continue
        if isinstance(found, UNUSABLE):
            # Whether a simulator answers is known once all have been asked.
            connections.note_unusable(connections.likely_owner([name]), found)
        probes.append(Probe(name, error=str(found)))
    return probes


def read_limits(pipeline: Pipeline) -> dict[str, str]:
    """Read the queue limit of each organisation that has an admin key; returns the organisations,
    by their declared names, for which that failed, and why."""
    failed: dict[str, str] = {}
    for organisation in organisation_limits.names(pipeline.accounts):
        if not organisation_limits.has_key(pipeline.accounts, organisation):
            continue
        try:
            organisation_limits.read(pipeline, organisation)
        except (BatchPipelineError, ApiFailure) as error:
            failed[organisation] = str(error)
    return failed


def rebind(pipeline: Pipeline, declared: str) -> None:
    """Let an account be one of the workspace that its next key is of.

    UsageError where the account is not declared or known, and while anything of it is at the API or
    not collected: no key but one of the former workspace can fetch it.
    """
    if declared not in pipeline.accounts.by_name:
        known = ", ".join(pipeline.accounts.by_name)
        raise UsageError(f"--rebind: no account {declared!r}; the accounts are {known}")
    names = {pipeline.accounts.names(declared, simulated=real).name for real in (False, True)}
    with pipeline.ledger.write() as connection:
        found = accounts.of_names(connection, names)
        of_account = tables.submission.c.account.in_(names)
        left = submissions.find(connection, of_account, states=submissions.LIVE)
        if left:
            raise UsageError(
                f"--rebind: {len(left):,} submissions of {declared} are at the API or not "
                "collected, and only a key of their workspace can fetch them: collect them first, "
                "or give the new key an account of its own."
            )
        for account in found:
            accounts.forget_ids(connection, account.name)
