"""The queue limit of an organisation, as an admin key reads it from the API.

A limit that is set too high makes batches that the API refuses, one that is too low leaves a part
of the queue empty. Belongs here: which key reads the limit of which organisation, and when it is
read again. What is in force stands in `ledger.accounts.organisations`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import AccountError, BatchPipelineError, UsageError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.accounts.accounts_file import Accounts
from batch_pipeline.ledger.accounts import organisations
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.safe_text import get_logger

if TYPE_CHECKING:
    from batch_pipeline.api.admin import AdminApi

log = get_logger(__name__)

ADMIN_KEY = "ANTHROPIC_ADMIN_KEY"
DAY = 24 * 3600.0
# A limit that could not be read is tried again by the same process after this time.
AGAIN_SECONDS = 3600.0
# When that was, by ledger and organisation, on the monotonic clock.
_failed: dict[tuple[str, str], float] = {}


def names(accounts: Accounts) -> list[str]:
    """The declared organisations, in the order of the file."""
    return list(dict.fromkeys(map(accounts.organisation_of, accounts.by_name)))


def accounts_of(accounts: Accounts, organisation: str) -> list[str]:
    """The declared accounts of an organisation."""
    return [name for name in accounts.by_name if accounts.organisation_of(name) == organisation]


def key_variable(accounts: Accounts, organisation: str) -> str | None:
    """The variable that holds the admin key of an organisation: the one that an account of it
    names, else the environment's where there is one organisation alone. None: there is none."""
    own = accounts_of(accounts, organisation)
    declared = [accounts.by_name[name].admin_key_env for name in own]
    usual = ADMIN_KEY if len(names(accounts)) == 1 else None
    return next((variable for variable in declared if variable is not None), usual)


def has_key(accounts: Accounts, organisation: str) -> bool:
    """Whether the limit of an organisation can be read here."""
    from batch_pipeline.api import credentials  # noqa: PLC0415  # the SDK takes a second

    variable = key_variable(accounts, organisation)
    return variable is not None and credentials.secret(variable) is not None


def admin_api(accounts: Accounts, organisation: str) -> AdminApi:
    """The reports and limits of an organisation; UsageError where it has no admin key."""
    from batch_pipeline.api.admin import AdminApi  # noqa: PLC0415  # the SDK takes a second

    variable = key_variable(accounts, organisation)
    if variable is None:
        raise UsageError(
            f"No admin key of organisation {organisation}: name its variable as `admin_key_env` of "
            f"one of its accounts in {accounts.file}. {ADMIN_KEY} is that of the only organisation."
        )
    [first, *_] = accounts_of(accounts, organisation)
    return AdminApi(variable, base_url=accounts.by_name[first].base_url)


def read(pipeline: Pipeline, organisation: str) -> int | None:
    """Read the queue limit of a declared organisation and note it; None: the API names none.

    Raises UsageError without a key, ApiFailure where the API does not give the limit, and
    AccountError for an admin key of another organisation than the one that the accounts are of.
    """
    api = admin_api(pipeline.accounts, organisation)
    limit = api.queue_limit()
    name = name_in_ledger(pipeline.accounts, organisation, simulated=api.simulated)
    with pipeline.ledger.write() as connection:
        check_admin_key(connection, pipeline.accounts, organisation, api)
        organisations.note_limit(connection, name, limit)
    return limit


def name_in_ledger(accounts: Accounts, organisation: str, *, simulated: bool) -> str:
    """The name under which the ledger has a declared organisation."""
    [first, *_] = accounts_of(accounts, organisation)
    return accounts.names(first, simulated=simulated).organisation


def check_admin_key(
    connection: Connection, accounts: Accounts, organisation: str, admin: AdminApi
) -> None:
    """Raise AccountError where an admin key, which the API has answered, is one of another
    organisation than the accounts' own keys."""
    name = name_in_ledger(accounts, organisation, simulated=admin.simulated)
    known = organisations.get(connection, name).api_id
    if None not in (known, admin.organisation_id) and known != admin.organisation_id:
        raise AccountError(
            f"The admin key of organisation {organisation} is one of {admin.organisation_id}, and "
            f"its accounts are of {known}. Set an admin key of that one in "
            f"{key_variable(accounts, organisation)}."
        )


def refresh(pipeline: Pipeline, accounts: Iterable[str]) -> None:
    """Read the limits of these accounts' organisations that have an admin key, once a day.

    The accounts are named as in the ledger. A limit that cannot be read is logged, and the former
    one holds: what is sent does not depend on it.
    """
    declared = pipeline.accounts
    wanted: dict[str, str] = {}
    for account in accounts:
        name = declared.declared_as(account)
        if name is not None:
            wanted[declared.organisation_of(name)] = pipeline.organisation_of(account)
    for organisation, in_ledger in wanted.items():
        if not _is_due(pipeline, organisation, in_ledger):
            continue
        try:
            read(pipeline, organisation)
        except (ApiFailure, BatchPipelineError) as error:
            _failed[pipeline.settings.ledger_url, in_ledger] = time.monotonic()
            log.warning(
                "the queue limit of organisation %s cannot be read: %s", organisation, error
            )


def _is_due(pipeline: Pipeline, organisation: str, in_ledger: str) -> bool:
    if not has_key(pipeline.accounts, organisation):
        return False
    failed_at = _failed.get((pipeline.settings.ledger_url, in_ledger))
    if failed_at is not None and time.monotonic() - failed_at < AGAIN_SECONDS:
        return False
    with pipeline.ledger.read() as connection:
        read_at = organisations.get(connection, in_ledger).limit_read_at
        return read_at is None or now(connection) - read_at >= DAY
