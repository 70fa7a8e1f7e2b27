"""The accounts: which there are, whose they are, and by which names the ledger knows them.

An *account* is one workspace's credential; it sends. An *organisation* has the queue and the rate
limits, which all of its workspaces share. An *owner* has the nights, answers and results. They are
declared in accounts.yaml; without the file the account of the environment is the only one, its own
owner and organisation.

Belongs here: what follows from the declaration. How a credential becomes a client of the API stands
in `api.credentials`, what the ledger knows of accounts in `ledger.accounts`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from batch_pipeline.errors import DeclarationError, UsageError
from batch_pipeline.jobs.accounts.account_specs import AccountSpec, read
from batch_pipeline.settings import (
    DEFAULT_ACCOUNT,
    MOST_QUEUED_REQUESTS,
    MOST_USD_PER_MONTH,
    SIMULATOR_ACCOUNT,
    Settings,
    accounts_of_environment,
)

__all__ = ["AccountNames", "AccountSpec", "Accounts", "load", "problem_of_job"]

_ORGANISATION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_WORKSPACE_ID = re.compile(r"wrkspc_\w+")


@dataclass(frozen=True)
class AccountNames:
    """An account by the names that the ledger has: its own, its owner's, its organisation's.

    `organisation_id` and `workspace_id` are the API's ids where the file declares them: a key of
    another organisation or workspace is refused. `declared` is its name in accounts.yaml; None:
    there is no such file.
    """

    name: str
    owner: str
    organisation: str
    simulated: bool
    organisation_id: str | None = None
    workspace_id: str | None = None
    declared: str | None = None


@dataclass(frozen=True)
class Accounts:
    """The accounts by name, as accounts.yaml declares them; `file` None: that of the environment.

    `default` sends the jobs that name no accounts, unless it is None. `queue_limit_set` and
    `max_usd_per_month` are the environment's, for those that declare none of their own.
    """

    by_name: Mapping[str, AccountSpec]
    file: Path | None = None
    default: str | None = None
    queue_limit_set: int | None = None
    max_usd_per_month: Decimal | None = None

    def of_job(self, declared: Iterable[str], job: str) -> tuple[str, ...]:
        """The accounts that may send a job: those that it names, else the environment's, else the
        only one; UsageError where none of these is there."""
        names = tuple(declared) or (() if self.default is None else (self.default,))
        if not names and len(self.by_name) == 1:
            names = tuple(self.by_name)
        if not names:
            raise UsageError(
                f"job {job} names no accounts, and {self.file} has several "
                f"({', '.join(self.by_name)}): write `accounts: [{next(iter(self.by_name))}]` into "
                "the job, or set BATCH_PIPELINE_ACCOUNT"
            )
        problem = self.problem(names)
        if problem is not None:
            raise UsageError(f"job {job}: accounts: {problem}")
        return names

    def problem(self, names: Iterable[str]) -> str | None:
        """Why these accounts cannot send one job, in a clause; None: they can."""
        unknown = [name for name in names if name not in self.by_name]
        if unknown:
            where = self.file or "the environment (there is no accounts.yaml)"
            return f"{unknown[0]!r} is not in {where}, which has {', '.join(self.by_name)}"
        owners = {self._owner(name): name for name in names}
        if len(owners) > 1:
            told = ", ".join(f"{name} has the owner {owner}" for owner, name in owners.items())
            return (
                f"the accounts of a job share one owner, and {told}; give them the same `owner` in "
                f"{self.file}, or name others"
            )
        return None

    def owner_of(self, names: Iterable[str]) -> str:
        """The owner that accounts share; DeclarationError where they have several."""
        owners = {self._owner(name) for name in names}
        if len(owners) != 1:
            raise DeclarationError(f"accounts: {self.problem(names)}")
        return owners.pop()

    def organisation_of(self, name: str) -> str:
        """The name of an account's organisation: the declared one, else the account's."""
        return self.by_name[name].organisation or name

    def queue_limit(self, organisation: str) -> int | None:
        """The queue limit in requests that is set for an organisation; None: none is."""
        limits = (
            spec.max_queued_requests
            for name, spec in self.by_name.items()
            if self.organisation_of(name) == organisation
        )
        return next((limit for limit in limits if limit is not None), self.queue_limit_set)

    def queue_limit_setting(self, organisation: str) -> str:
        """The name of the setting of `queue_limit`."""
        for name, spec in self.by_name.items():
            if self.organisation_of(name) == organisation and spec.max_queued_requests is not None:
                return f"max_queued_requests of account {name}"
        return MOST_QUEUED_REQUESTS

    def ceiling(self, name: str) -> tuple[Decimal | None, str]:
        """The most USD of an account in a calendar month, and the name of the setting that says
        so."""
        own = self.by_name[name].max_usd_per_month
        if own is not None:
            return own, f"max_usd_per_month of account {name}"
        return self.max_usd_per_month, MOST_USD_PER_MONTH

    def names(self, name: str, *, simulated: bool) -> AccountNames:
        """An account by the names that the ledger has.

        A simulator is an owner of its own, and its accounts are named after it: none of its
        answers, and nothing of its queue, may count for the real API.
        """
        spec, organisation = self.by_name[name], self.organisation_of(name)
        if simulated and self.file is None:
            own = SIMULATOR_ACCOUNT
            return AccountNames(own, own, own, simulated=True)
        if self.file is None:
            return AccountNames(name, name, name, simulated=False)
        if simulated:
            return AccountNames(
                f"{SIMULATOR_ACCOUNT}.{name}",
                SIMULATOR_ACCOUNT,
                f"{SIMULATOR_ACCOUNT}.{organisation}",
                simulated=True,
                declared=name,
            )
        federation = spec.federation
        workspace_id = None if federation is None else federation.workspace_id
        if workspace_id is None and _WORKSPACE_ID.fullmatch(spec.workspace or ""):
            workspace_id = spec.workspace
        organisation_id = None if federation is None else federation.organisation_id
        if organisation_id is None and _ORGANISATION_ID.fullmatch(organisation):
            organisation_id = organisation
        return AccountNames(
            name,
            self._owner(name),
            organisation,
            simulated=False,
            organisation_id=organisation_id,
            workspace_id=workspace_id,
            declared=name,
        )

    def other_organisations(self, name: str, *, simulated: bool) -> set[str]:
        """The names that the ledger has for the organisations of all other accounts."""
        every = {self.names(other, simulated=simulated).organisation for other in self.by_name}
        return every - {self.names(name, simulated=simulated).organisation}

    def declared_as(self, account: str) -> str | None:
        """The name here of an account of the ledger; None: it is not here."""
        if self.file is None and account == SIMULATOR_ACCOUNT:
            return next(iter(self.by_name))
        name = account.removeprefix(f"{SIMULATOR_ACCOUNT}.")
        return name if name in self.by_name else None

    def credentials_of(self, accounts: Iterable[str]) -> str:
        """Where the keys of accounts of the ledger come from, for messages."""
        declared = filter(None, map(self.declared_as, accounts))
        return " or ".join(self.by_name[name].credential for name in declared)

    def _owner(self, name: str) -> str:
        return self.by_name[name].owner or name


def load(settings: Settings) -> Accounts:
    """The accounts of accounts.yaml, or the one of the environment.

    Raises DeclarationError with all problems of the file, each with its line. The values of the
    variables that it names as secrets are hidden from then on, whatever the variables are called.
    """
    file, account = settings.accounts_file, settings.account
    queue_limit = None if settings.queue_limit_assumed else settings.max_queued_requests
    if file is None:
        by_name: Mapping[str, AccountSpec] = {account: AccountSpec()}
        return Accounts(by_name, None, account, queue_limit, settings.max_usd_per_month)
    by_name = read(file)
    default = account if account in by_name else None
    if default is None and account != DEFAULT_ACCOUNT:
        raise UsageError(
            f"BATCH_PIPELINE_ACCOUNT is {account!r}, which is not in {file}; the accounts there "
            f"are {', '.join(by_name)}"
        )
    return Accounts(by_name, file, default, queue_limit, settings.max_usd_per_month)


def problem_of_job(named: Iterable[str], jobs_dir: Path) -> str | None:
    """What is wrong with the accounts that a job of a folder names, in a clause; None: nothing."""
    file, account = accounts_of_environment(jobs_dir)
    try:
        by_name = {account: AccountSpec()} if file is None else read(file)
    except DeclarationError as error:
        return f"the accounts cannot be read: {str(error).splitlines()[0]}"
    return Accounts(by_name, file).problem(named)
