"""The accounts that may send, and their connections to the API.

A job may be sent by several accounts. Each connects on its own: one whose key is refused, or whose
API does not answer, is noted in the ledger, and the others go on without it. What an account has
sent is polled, cancelled and collected with its own credential, or with another one of the same
workspace, for the batches of a workspace are listed to no other.

Belongs here: connecting, and whose an account is. Which account sends a batch is decided in
`ledger.admission`, in the transaction that claims.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batch_pipeline.api.failures import cause_of, is_outage, most_hopeful
from batch_pipeline.api.protocol import Api, ApiFailure
from batch_pipeline.errors import (
    AccountError,
    AccountPausedError,
    ApiError,
    BatchPipelineError,
    UsageError,
)
from batch_pipeline.jobs.accounts.accounts_file import AccountNames, Accounts, AccountSpec
from batch_pipeline.ledger.accounts import accounts as rows
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.safe_text import get_logger
from batch_pipeline.settings import is_simulated

log = get_logger(__name__)

# What keeps one account from being used and says nothing about the others: a variable that is not
# set, a key that is refused, an API that does not answer.
UNUSABLE = (UsageError, AccountError, ApiError)
# An account that could not be connected, or did not answer, is tried again at the earliest after
# this many times as long as the last try took: the others wait meanwhile.
REST = 10.0

OpenApi = Callable[[AccountSpec], Api]


class Apis:
    """The connected APIs of accounts, opened on first use; for threads.

    Several pipelines may share them: a code server makes a pipeline for each tick, and need not
    connect for each.
    """

    def __init__(self, open_api: OpenApi | None = None) -> None:
        self._open = open_api or _open
        # One that was given stays open: it is another's.
        self._is_own = open_api is None
        self._connected: dict[str, tuple[AccountSpec, Api]] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def of(self, name: str, account: AccountSpec) -> Api:
        """The API of an account as it is declared now; raises as `AnthropicApi` does."""
        with self._lock:
            lock = self._locks[name]
        with lock:
            found = self._connected.get(name)
            if found is None or found[0] != account:
                found = account, self._open(account)
                self._connected[name] = found
            return found[1]

    def close(self) -> None:
        """Close the connections that were opened here."""
        connected, self._connected = self._connected, {}
        for _, api in connected.values():
            if self._is_own and hasattr(api, "close"):
                api.close()


def _open(account: AccountSpec) -> Api:
    # `validate`, `estimate` and `report` do without the SDK, which takes a second to import.
    from batch_pipeline.api.client import AnthropicApi  # noqa: PLC0415

    return AnthropicApi(account=account)


@dataclass(frozen=True)
class Owner:
    """Whose the nights of a job are, and the accounts that may send them, as the ledger names
    them."""

    name: str
    simulated: bool
    accounts: tuple[str, ...]


@dataclass(frozen=True)
class Connected:
    """An account that the API answers, by the names that the ledger has."""

    declared: str
    names: AccountNames
    api: Api


class Connections:
    """The accounts of accounts.yaml, or of the environment, as one pipeline reaches them."""

    def __init__(
        self, accounts: Accounts, ledger: Callable[[], Ledger], apis: Apis, *, retry_seconds: float
    ) -> None:
        self._accounts, self._ledger, self._apis = accounts, ledger, apis
        self._retry_seconds = retry_seconds
        self._connected: dict[str, Connected] = {}
        # Why accounts could not be connected or asked, and until when they are left alone.
        self._failed: dict[str, tuple[Exception, float]] = {}
        self._noted: dict[str, Exception] = {}
        self._told: dict[str, str | None] = {}

    def connect(self, declared: str) -> Connected:
        """A declared account, connected. Raises as `AnthropicApi` does, and AccountError for a key
        of another organisation or workspace than the account's."""
        found = self._connected.get(declared)
        if found is None:
            began = time.monotonic()
            try:
                found = self._connect(declared)
            except UNUSABLE as error:
                self._failed[declared] = error, self._rests_until(time.monotonic() - began)
                raise
            self._connected[declared] = found
            self._failed.pop(declared, None)
            self.tell(found.names.name, None)
        return found

    def _connect(self, declared: str) -> Connected:
        try:
            api = self._apis.of(declared, self._accounts.by_name[declared])
        except UNUSABLE as error:
            if self._accounts.file is None:
                raise
            raise self._of_account(declared, error) from error
        names = self._accounts.names(declared, simulated=api.simulated)
        others = self._accounts.other_organisations(declared, simulated=api.simulated)
        with self._ledger().write() as connection:
            rows.register(connection, names)
            rows.note_ids(connection, names, api.organisation, api.workspace, others=others)
        return Connected(declared, names, api)

    def _of_account(self, declared: str, error: Exception) -> BatchPipelineError:
        """The error with the name of the account, since there may be others."""
        assert isinstance(error, BatchPipelineError)
        return type(error)(f"account {declared}: {error}")

    def answering(self, declared: Sequence[str]) -> list[Connected]:
        """Those of the accounts that can be used now; what is wrong with the others is noted.

        Raises one of their errors where none can be used, and AccountError where a simulator
        answers some and the API others.
        """
        found: list[Connected] = []
        failed: list[tuple[str, Exception]] = []
        others = not self._connected.keys().isdisjoint(declared)
        for name in declared:
            if others and name not in self._connected and self._rests(name):
                failed.append((name, self._failed[name][0]))
                continue
            try:
                found.append(self.connect(name))
            except UNUSABLE as unusable:
                failed.append((name, unusable))
        if not found:
            raise most_hopeful([error for _, error in failed])
        simulated = {each.names.simulated for each in found}
        if len(simulated) > 1:
            told = ", ".join(
                f"{each.declared} {'a simulator' if each.names.simulated else 'the API'}"
                for each in found
            )
            raise AccountError(
                f"A simulator and the API answer accounts of one job ({told}); their answers must "
                "not mix. Nothing was sent: give all of them the same `base_url`."
            )
        for name, error in failed:
            self._leave_out(self._owner([name], simulated=simulated == {True}), error)
        return found

    def _leave_out(self, owner: Owner, error: Exception) -> None:
        """Note and log why the one account of an owner is not used, once for each failure."""
        [name] = owner.accounts
        if self._noted.get(name) is not error:
            self._noted[name] = error
            self.note_unusable(owner, error)
            self.tell(name, error)

    def note_unusable(self, owner: Owner, error: Exception, *, times: int = 1) -> None:
        """Note in the ledger why an owner's accounts cannot be used: that they are paused, that
        their API does not answer, or that it refuses their key, as `times` refusals."""
        self.register(owner)
        with self._ledger().write() as connection:
            for name, problem in self._problems(owner, error).items():
                # In the API's words: the error tells a person what to do, too.
                reason = str(cause_of(problem) or problem)
                if isinstance(problem, AccountPausedError):
                    rows.pause_account(connection, name, reason)
                elif isinstance(problem, ApiError) or is_outage(problem):
                    rows.note_unanswered(connection, name, reason)
                else:
                    rows.note_refused(connection, name, reason, times=times)

    def rest(self, account: str, failure: ApiFailure, took: float) -> None:
        """Leave an account of the ledger whose API does not answer alone for a while, after a call
        that took `took` seconds: the others wait meanwhile."""
        declared = self._accounts.declared_as(account)
        if declared is not None and is_outage(failure) and not self._rests(declared):
            self._failed[declared] = failure, self._rests_until(took)

    def _rests(self, declared: str) -> bool:
        _, until = self._failed.get(declared, (None, 0.0))
        return time.monotonic() < until

    def _rests_until(self, took: float) -> float:
        return time.monotonic() + max(self._retry_seconds, REST * took)

    def tell(self, account: str, error: Exception | None) -> None:
        """Log why an account is left out, once for each reason; None: it is used again."""
        said = None if error is None else str(error)
        if isinstance(error, ApiFailure) and not error.connected:
            # Its message is the error for which the account could not be connected.
            said = error.message
        if self._told.get(account) != said:
            self._told[account] = said
            if said is not None:
                log.warning("account %s is left out for now: %s", account, said)
            else:
                log.info("account %s is used again", account)

    def owner(self, declared: Sequence[str]) -> Owner:
        """The owner of what these accounts send, once one of them is connected."""
        simulated = self.answering(declared)[0].names.simulated
        return self._owner(declared, simulated=simulated)

    def likely_owner(self, declared: Sequence[str]) -> Owner:
        """As `owner`, without the API, which alone could tell whether a simulator answers: it does
        where the ledger knows no other accounts than those of one."""
        for name in declared:
            if name in self._connected:
                return self._owner(declared, simulated=self._connected[name].names.simulated)
        with self._ledger().read() as connection:
            if self._accounts.file is None:
                # The environment's account may have another name now.
                [name] = declared
                likely = rows.likely(connection, name)
                return Owner(likely, is_simulated(likely), (likely,))
            known = rows.list_accounts(connection)
        simulated = bool(known) and all(each.simulated for each in known)
        return self._owner(declared, simulated=simulated)

    def register(self, owner: Owner) -> None:
        """Add an owner's accounts to the ledger that it does not have yet."""
        with self._ledger().write() as connection:
            for account in owner.accounts:
                declared = self._accounts.declared_as(account)
                if declared is not None:
                    names = self._accounts.names(declared, simulated=owner.simulated)
                    rows.register(connection, names)

    def _problems(self, owner: Owner, error: Exception) -> dict[str, Exception]:
        """Why accounts of an owner cannot be used, by name, after an error: of one alone the error
        itself, of several what was met with when each was connected."""
        if len(owner.accounts) == 1:
            return {owner.accounts[0]: error}
        found = {
            account: self._failed.get(self._accounts.declared_as(account) or "")
            for account in owner.accounts
        }
        return {account: failed[0] for account, failed in found.items() if failed is not None}

    def _owner(self, declared: Sequence[str], *, simulated: bool) -> Owner:
        every = [self._accounts.names(name, simulated=simulated) for name in declared]
        return Owner(every[0].owner, simulated, tuple(each.name for each in every))

    def of(self, account: str) -> Api:
        """The API by which to reach what an account of the ledger has sent: with its own
        credential, or with that of another account of its workspace.

        Raises ApiFailure where neither can be used, as a call would that never left.
        """
        errors: list[Exception] = []
        found = self._by_own_credential(account, errors)
        if found is None:
            with self._ledger().read() as connection:
                same = rows.same_workspace(connection, account)
            others = (self._by_own_credential(name, errors) for name in same if name != account)
            found = next(filter(None, others), None)
        if found is None:
            raise _unusable(errors[0] if errors else self._not_declared(account))
        return found

    def _by_own_credential(self, account: str, errors: list[Exception]) -> Api | None:
        """The API of an account of the ledger; None where it is not declared, or cannot be used for
        a reason that is added to `errors`."""
        declared = self._accounts.declared_as(account)
        if declared is None:
            return None
        if self._rests(declared):
            errors.append(self._failed[declared][0])
            return None
        try:
            found = self.connect(declared)
        except UNUSABLE as unusable:
            errors.append(unusable)
            return None
        return found.api if found.names.name == account else None

    def _not_declared(self, account: str) -> AccountError:
        return AccountError(
            f"account {account} is not in {self._accounts.file or 'the environment'}: declare it "
            "there until what it has sent is collected; nothing is lost"
        )


def _unusable(error: Exception) -> ApiFailure:
    """The failure of a call under an account that cannot be used."""
    if isinstance(error, ApiFailure):
        return error
    if isinstance(error, ApiError):
        return ApiFailure(None, None, None, str(error), connected=False)
    return ApiFailure(401, "authentication_error", None, str(error), connected=False)
