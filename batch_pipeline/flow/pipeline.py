"""The handle on a home that each function of the flow takes: settings, files, ledger and API."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import cached_property
from typing import Self

from batch_pipeline.api.protocol import Api
from batch_pipeline.api.rate_limit import Limiter
from batch_pipeline.flow.concurrency import this_holder
from batch_pipeline.flow.home_mark import HomeMark
from batch_pipeline.ledger import accounts, nights
from batch_pipeline.ledger.accounts import Account
from batch_pipeline.ledger.admission.admission import Limits, ReadMarks, Sender
from batch_pipeline.ledger.admission.budget import Money
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.settings import SIMULATOR_ACCOUNT, Settings
from batch_pipeline.storage.files import Files


class Pipeline:
    """Access to a home: settings, files, ledger and API. `holder` marks its claims in the ledger.

    A context manager, which closes what it has opened: only then is a SQLite ledger whole in its
    one file. Ledger and API are opened on first use. An API that was given, or that `open_api`
    returns, stays open: several pipelines may share it.
    """

    def __init__(
        self,
        settings: Settings,
        api: Api | None = None,
        *,
        open_api: Callable[[], Api] | None = None,
    ) -> None:
        self.settings = settings
        self.holder = this_holder()
        self._given_api = api
        self._open_api = open_api
        self._limiters: dict[str, Limiter] = {}
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
    def api(self) -> Api:
        """The API, connected; UsageError without a key, AccountError where the key is refused."""
        if self._given_api is not None:
            return self._given_api
        if self._open_api is not None:
            return self._open_api()
        # `validate`, `estimate` and `report` do without the SDK, which takes a second to import.
        from batch_pipeline.api.client import AnthropicApi  # noqa: PLC0415

        return self._opened.enter_context(closing(AnthropicApi()))

    @cached_property
    def mark(self) -> HomeMark:
        return HomeMark(self.files, self.ledger, self.settings.ledger_url)

    @cached_property
    def account(self) -> Account:
        """The account that owns queue, spend and answers; a simulator has an account of its own.

        What sends begins here. Raises LedgerError where the ledger is not the home's own or is
        behind it: it would buy again what it does not know.
        """
        account = self.account_as_it_is
        self.mark.check(account)
        return account

    @cached_property
    def account_as_it_is(self) -> Account:
        """The account, whatever the state of the ledger."""
        simulated = self.api.simulated
        name = SIMULATOR_ACCOUNT if simulated else self.settings.account
        with self.ledger.write() as connection:
            accounts.register_account(connection, name, simulated=simulated)
            return accounts.get_account(connection, name)

    def limiter(self, model_id: str) -> Limiter:
        """The rate limiter that all real-time calls of this pipeline to a model share."""
        return self._limiters.setdefault(model_id, Limiter())

    def limits(self, job_queue: int | None, money: Money, marks: ReadMarks) -> Limits:
        """The limits of admission: the account's and the job's share of the queue, money, and what
        decides on cache marks."""
        account, settings = self.account, self.settings
        sender = Sender(
            account.name,
            account.organisation_name,
            settings.max_queued_requests,
            settings.max_usd_per_month,
        )
        return Limits(
            senders=(sender,),
            job_queue=job_queue,
            lease_seconds=self.settings.lease_seconds,
            money=money,
            marks=marks,
        )

    def refreshed(self, night: Night) -> Night:
        """The night as the ledger has it now."""
        with self.ledger.read() as connection:
            return nights.get_night(connection, night.id)
