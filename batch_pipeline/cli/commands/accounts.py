"""`accounts`: which accounts there are, where they stand, and what the API says to their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Json
from batch_pipeline.cli.output import COMPLETE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch_pipeline.cli.output import Output
    from batch_pipeline.flow.account_probes import Probe
    from batch_pipeline.flow.status.account_state import AccountState
    from batch_pipeline.jobs.accounts.accounts_file import Accounts

FAILED = 1


def accounts(
    context: typer.Context,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Ask the API about each account.")
    ] = True,
    rebind: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Let this account be one of another workspace: that of its present key.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """List the accounts with room, spending and trouble, and ask the API about each.

    Ends with code 1 if an account cannot be used.
    """
    from batch_pipeline.flow import account_probes
    from batch_pipeline.flow.status import account_state

    pipeline = opening.open_pipeline(context)
    declared = pipeline.accounts
    if rebind is not None:
        account_probes.rebind(pipeline, rebind)
        context.obj.say(f"Account {rebind} takes the workspace of its next key.")
    probes: list[Probe] = []
    unread: dict[str, str] = {}
    if probe:
        probes = account_probes.probe(pipeline, list(declared.by_name))
        unread = account_probes.read_limits(pipeline)
    with pipeline.ledger.read() as connection:
        states = account_state.every(connection, pipeline)
    _show(context.obj, declared, states, probes, unread)
    return FAILED if any(each.error for each in probes) else COMPLETE


def _show(
    output: Output,
    declared: Accounts,
    states: Sequence[AccountState],
    probes: Sequence[Probe],
    unread: Mapping[str, str],
) -> None:
    asked = {each.declared: each for each in probes}
    names = {state.name: declared.declared_as(state.name) for state in states}
    document = {
        "file": None if declared.file is None else str(declared.file),
        "accounts": [
            {
                **state.as_json(),
                "declared_name": names[state.name],
                "credential": _credential(declared, names[state.name]),
                "probe": _probe_of(asked, state, names[state.name]),
            }
            for state in states
        ],
        "limits_not_read": dict(unread),
    }

    def show() -> None:
        from batch_pipeline.cli.status_view import accounts_table
        from batch_pipeline.cli.tables import SIMULATED, SafeConsole
        from batch_pipeline.safe_text import one_line

        console = SafeConsole()
        console.print(accounts_table(states))
        lines = []
        for state in states:
            name = names[state.name]
            found = _probe_of(asked, state, name)
            # A probe that failed says what the ledger knows of it.
            failed = found is not None and found["error"] is not None
            known = state.limit_troubles() if failed else state.troubles()
            lines += [f"{state.name}: {trouble}" for trouble in known]
            if found is not None:
                lines.append(_said(state.name, found, _credential(declared, name)))
        lines += [
            f"the queue limit of organisation {organisation} cannot be read: {why}"
            for organisation, why in unread.items()
        ]
        for line in lines:
            console.print(f"  {one_line(line)}", soft_wrap=True, highlight=False, markup=False)
        if any(state.account.simulated for state in states):
            console.print(SIMULATED)

    output.answer(document, show)


def _probe_of(
    asked: Mapping[str, Probe], state: AccountState, declared: str | None
) -> dict[str, object] | None:
    """The probe of an account of the ledger: a key answers for the real account or for the
    simulator's, never for both."""
    found = asked.get(declared or "")
    if found is None or found.name not in (None, state.name):
        return None
    return found.as_json()


def _credential(declared: Accounts, name: str | None) -> str | None:
    return None if name is None else declared.by_name[name].credential


def _said(name: str, probe: Mapping[str, object], credential: str | None) -> str:
    if probe["error"] is not None:
        return f"{name}: cannot be used: {probe['error']}"
    organisation, workspace = probe["organisation_id"], probe["workspace_id"]
    where = f"organisation {organisation}, workspace {workspace}"
    if organisation is None and workspace is None:
        where = "the API does not name its workspace, so that a key of another one is not noticed"
    return f"{name}: answers ({credential}); {where}"
