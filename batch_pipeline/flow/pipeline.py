"""What every station of the flow is handed: settings, files, ledger and, once needed, the API."""

from __future__ import annotations

import gc
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Self

from batch_pipeline.api.protocol import Api
from batch_pipeline.api.rate_limit import Limiter
from batch_pipeline.settings import Settings
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    from batch_pipeline.ledger.accounts import Account
    from batch_pipeline.ledger.admission import Limits
    from batch_pipeline.ledger.budget import Money
    from batch_pipeline.ledger.ledger import Ledger
    from batch_pipeline.ledger.nights import Night

SIMULATOR_ACCOUNT = "simulator"


@contextmanager
def loading_once(module: str) -> Iterator[None]:
    """Without garbage collection where the block is the first to load a module.

    Hundreds of thousands of objects are made then, which all stay. To look through them again and
    again for what does not is a tenth of the time; from then on they count as old.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        # Through the permanent generation to the oldest one, without a look at any.
        gc.freeze()
        gc.unfreeze()
        gc.enable()


class Pipeline:
    """Access to a home: settings, files, ledger and API. `owner` marks its claims in the ledger.

    A context manager, which closes what it has opened: only then is a SQLite ledger whole in its
    one file. Ledger and API are opened on first use. An API that was given, or that `open_api`
    returns, stays open: it may be shared by several pipelines.
    """

    def __init__(
        self,
        settings: Settings,
        api: Api | None = None,
        *,
        open_api: Callable[[], Api] | None = None,
    ) -> None:
        self.settings = settings
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
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
        return Files(self.settings.home)

    @cached_property
    def ledger(self) -> Ledger:
        from batch_pipeline.ledger.ledger import Ledger  # noqa: PLC0415

        return self._opened.enter_context(Ledger(self.settings.ledger_url))

    @cached_property
    def api(self) -> Api:
        """Connects on first use; raises where there is no key or the API refuses it."""
        if self._given_api is not None:
            return self._given_api
        if self._open_api is not None:
            return self._open_api()
        with loading_once("anthropic"):
            from batch_pipeline.api.client import AnthropicApi  # noqa: PLC0415  # heavy

            # Its first client loads as much again as it needs.
            return self._opened.enter_context(closing(AnthropicApi()))

    @cached_property
    def account(self) -> Account:
        """Whose queue, spend and answers these are; a simulator is an account of its own."""
        from batch_pipeline.ledger import accounts  # noqa: PLC0415

        simulated = self.api.simulated
        name = SIMULATOR_ACCOUNT if simulated else self.settings.account
        with self.ledger.write() as connection:
            accounts.register_account(connection, name, simulated=simulated)
            return accounts.get_account(connection, name)

    def limiter(self, model_id: str) -> Limiter:
        """The one that all real-time calls of this process to a model share: limits are its own."""
        return self._limiters.setdefault(model_id, Limiter())

    def limits(self, job_queue: int | None, money: Money) -> Limits:
        from batch_pipeline.ledger.admission import Limits  # noqa: PLC0415

        return Limits(
            account_queue=self.settings.max_queued_requests,
            job_queue=job_queue,
            lease_seconds=self.settings.lease_seconds,
            money=money,
        )

    def refreshed(self, night: Night) -> Night:
        """The night as the ledger has it now."""
        from batch_pipeline.ledger import nights  # noqa: PLC0415

        with self.ledger.read() as connection:
            return nights.get_night(connection, night.id)
