"""`reconcile-costs`: the ledger's day beside the organisation's usage and cost report."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Json
from batch_pipeline.errors import ApiError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_pipeline.cli.output import Output
    from batch_pipeline.flow.costs.billing_check import Compared

NOTE = (
    "The organisation's figures hold all that its people and programs do, not this ledger's work "
    "alone; they come some minutes late."
)


def reconcile_costs(
    context: typer.Context,
    day: Annotated[
        str | None, typer.Option("--date", metavar="DATE", help="UTC day; by default yesterday.")
    ] = None,
    organisation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Organisation of accounts.yaml; needed where it has several."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare what was billed on a day with the organisation's own report, with an admin key."""
    from batch_pipeline.api.protocol import ApiFailure
    from batch_pipeline.flow import organisation_limits
    from batch_pipeline.flow.costs import billing_check
    from batch_pipeline.ledger.accounts import organisations

    pipeline = opening.open_pipeline(context)
    wanted = _day(day)
    name = _organisation(organisation, organisation_limits.names(pipeline.accounts))
    admin = organisation_limits.admin_api(pipeline.accounts, name)
    try:
        usage, costs = admin.usage(wanted), admin.costs(wanted)
    except ApiFailure as failure:
        raise ApiError(
            f"The organisation's report cannot be read ({failure}). Check "
            f"{organisation_limits.key_variable(pipeline.accounts, name)}."
        ) from failure
    in_ledger = organisation_limits.name_in_ledger(
        pipeline.accounts, name, simulated=admin.simulated
    )
    with pipeline.ledger.read() as connection:
        organisation_limits.check_admin_key(connection, pipeline.accounts, name, admin)
        accounts = sorted(organisations.accounts_of(connection, [in_ledger]))
        ledger = billing_check.of_ledger(connection, accounts, wanted)
    compared = billing_check.compare(ledger, billing_check.of_organisation(usage, costs))
    _show(context.obj, wanted, in_ledger, accounts, compared, simulated=admin.simulated)


def _organisation(given: str | None, declared: Sequence[str]) -> str:
    """The organisation that is meant: the given one, or the only one."""
    if given is None and len(declared) == 1:
        return declared[0]
    if given is not None and given in declared:
        return given
    wrong = "missing" if given is None else f"{given!r}, which no account has"
    raise UsageError(f"--organisation is {wrong}; the organisations are {', '.join(declared)}")


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date() - timedelta(days=1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--date is {text!r}; write it like 2026-01-31") from None


def _show(
    output: Output,
    day: date,
    organisation: str,
    accounts: Sequence[str],
    compared: Sequence[Compared],
    *,
    simulated: bool,
) -> None:
    document = {
        "date": day.isoformat(),
        "organisation": organisation,
        "accounts": list(accounts),
        "account": accounts[0] if len(accounts) == 1 else None,
        "simulated": simulated,
        "note": NOTE,
        "models": [each.as_json() for each in compared],
    }

    def show() -> None:
        from batch_pipeline.cli.tables import SIMULATED, SafeConsole, plain_table
        from batch_pipeline.pricing.tokens import TOKENS
        from batch_pipeline.wording import usd

        console = SafeConsole()
        of = f"account{'s' if len(accounts) > 1 else ''} {', '.join(accounts) or 'none'}"
        print(f"{day}, {of}: the ledger beside organisation {organisation}")
        if not compared:
            print("Neither knows of any usage.")
        for each in compared:
            table = plain_table()
            table.add_column(f"{each.model}, {each.mode}", no_wrap=True)
            for name in ("ledger", "organisation", "difference"):
                table.add_column(name, justify="right", no_wrap=True)
            ours, theirs = each.ledger, each.organisation
            for name in TOKENS:
                mine, all_of_them = ours.tokens[name], theirs.tokens[name]
                difference = f"{all_of_them - mine:+,}"
                table.add_row(name.replace("_", " "), f"{mine:,}", f"{all_of_them:,}", difference)
            table.add_row("USD", usd(ours.usd), usd(theirs.usd), usd(theirs.usd - ours.usd))
            console.print(table)
            if each.beyond:
                print("  The ledger has more than the organisation. Is the report up to date, and")
                print("  is the admin key one of the organisation that the batches belong to?")
        print(NOTE)
        if simulated:
            console.print(SIMULATED)

    output.answer(document, show)
