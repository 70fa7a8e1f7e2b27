"""The handle on a home that each function of the flow takes: settings, files, ledger and API."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from typing import Self

from sqlalchemy import Connection

from batch_pipeline.api.protocol import Api
from batch_pipeline.api.rate_limit import Limiter
from batch_pipeline.errors import UsageError
from batch_pipeline.flow.concurrency import this_holder
from batch_pipeline.flow.connections import Apis, Connected, Connections, Owner
from batch_pipeline.flow.home_mark import HomeMark
from batch_pipeline.jobs.accounts import accounts_file
from batch_pipeline.jobs.accounts.accounts_file import Accounts
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts as rows
from batch_pipeline.ledger.admission import senders
from batch_pipeline.ledger.admission.queue import queue_limit
from batch_pipeline.ledger.admission.senders import Sender
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.settings import Settings, is_simulated
from batch_pipeline.storage.files import Files


class Pipeline:
    """Access to a home: settings, files, ledger and the accounts' APIs. `holder` marks its claims
    in the ledger.

    A context manager, which closes what it has opened: only then is a SQLite ledger whole in its
    one file. Ledger and APIs are opened on first use. An API that was given (of the only account),
    and `apis`, stay open: several pipelines may share them.
    """

    def __init__(
        self, settings: Settings, api: Api | None = None, *, apis: Apis | None = None
    ) -> None:
        self.settings = settings
        self.holder = this_holder()
        self._given = Apis(lambda _account: api) if api is not None else apis
        self._limiters: dict[tuple[str, str], Limiter] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._opened.close()

    @cached_property
    def files(self) -> Files:
        files = Files(self.settings.home)
        files.warn_if_open()
        return files

    @cached_property
    def ledger(self) -> Ledger:
        return self._opened.enter_context(Ledger(self.settings.ledger_url))

    @cached_property
    def mark(self) -> HomeMark:
        return HomeMark(self.files, self.ledger, self.settings.ledger_url)

    @cached_property
    def accounts(self) -> Accounts:
        """The accounts of accounts.yaml, or the one of the environment."""
        return accounts_file.load(self.settings)

    @cached_property
    def connections(self) -> Connections:
        """The accounts as this process reaches them."""
        apis = self._given or self._opened.enter_context(closing(Apis()))
        return Connections(
            self.accounts, lambda: self.ledger, apis, retry_seconds=self.settings.poll_seconds
        )

    def owner(self, spec: JobSpec) -> Owner:
        """The owner of a job's nights, once one of the job's accounts is connected; a simulator is
        an owner of its own.

        What sends begins here. Raises LedgerError where the ledger is not the home's own or is
        behind it: it would buy again what it does not know. Without a key UsageError, and
        AccountError where all keys are refused.
        """
        owner = self.owner_as_it_is(spec)
        self.mark.check(simulated=owner.simulated)
        self._refuse_to_leave_nights(spec, owner)
        return owner

    def _refuse_to_leave_nights(self, spec: JobSpec, owner: Owner) -> None:
        """Raise UsageError where one of the accounts owned nights of the job: under another owner
        they would be bought again."""
        with self.ledger.read() as connection:
            for account in owner.accounts:
                if account != owner.name and nights.list_nights(
                    connection, job=spec.name, owner=account
                ):
                    raise UsageError(
                        f"Account {account} has nights of job {spec.name} of its own, and they "
                        f"would be bought again for the owner {owner.name}. Write `owner: "
                        f"{account}` for each account of the job in {self.accounts.file}, so that "
                        "its nights go on."
                    )

    def owner_as_it_is(self, spec: JobSpec) -> Owner:
        """The owner of a job's nights, whatever the state of the ledger."""
        return self.connections.owner(self._declared(spec))

    def likely_owner(self, spec: JobSpec) -> Owner:
        """The owner of a job's nights as far as the ledger knows; asks no API."""
        return self.connections.likely_owner(self._declared(spec))

    def _declared(self, spec: JobSpec) -> tuple[str, ...]:
        return self.accounts.of_job(spec.accounts, spec.name)

    def declared_owner(self, spec: JobSpec) -> str:
        """The owner of a job's nights where no simulator answers."""
        return self.accounts.owner_of(self._declared(spec))

    def answering(self, spec: JobSpec) -> list[Connected]:
        """The job's accounts that can be used now; raises where none can."""
        return self.connections.answering(self._declared(spec))

    def api_for(self, spec: JobSpec) -> Api:
        """The API for calls that are free of charge: that of the first account that answers."""
        return self.answering(spec)[0].api

    def api_of(self, account: str) -> Api:
        """The API by which to reach what an account of the ledger has sent, or is to send; raises
        ApiFailure where the account cannot be used."""
        return self.connections.of(account)

    def senders(self, connection: Connection, connected: Sequence[Connected]) -> tuple[Sender, ...]:
        """Those of the connected accounts of a job that may be sent with now, with their limits.

        An account whose API is known not to answer, or to refuse its key, is left out until a poll
        of it succeeds, unless that is so of all of them.
        """
        names = [each.declared for each in connected]
        simulated = connected[0].names.simulated
        found = senders.declared(connection, self.accounts, names, simulated=simulated)
        known = rows.of_names(connection, [sender.account for sender in found])
        fit = {each.name for each in known if each.unanswered is None and each.refused is None}
        return tuple(sender for sender in found if sender.account in fit) or found

    def senders_of(self, connection: Connection, night: Night) -> tuple[Sender, ...]:
        """The accounts that may send a night, with their limits, whether they answer or not."""
        return senders.of_night(connection, self.accounts, night)

    def organisation_of(self, account: str) -> str:
        """The organisation of an account of the ledger; itself if it is not declared any more."""
        declared = self.accounts.declared_as(account)
        if declared is None:
            return account
        return self.accounts.names(declared, simulated=is_simulated(account)).organisation

    def queue_limit(self, connection: Connection, spec: JobSpec) -> int:
        """The most requests that a batch of a job may have, so that each of its accounts can send
        it; asks no API."""
        found = senders.declared(
            connection,
            self.accounts,
            self._declared(spec),
            simulated=self.likely_owner(spec).simulated,
        )
        smallest = min(sender.queue_limit for sender in found)
        return queue_limit(smallest, spec.limits.max_queued_requests)

    def limiter(self, organisation: str, model_id: str) -> Limiter:
        """The rate limiter of a model at an organisation, which all real-time calls of this
        pipeline share."""
        return self._limiters.setdefault((organisation, model_id), Limiter())

    def refreshed(self, night: Night) -> Night:
        """The night as the ledger has it now."""
        with self.ledger.read() as connection:
            return nights.get_night(connection, night.id)
