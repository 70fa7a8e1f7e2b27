"""`batch-pipeline`: its commands, and how the program ends.

A command is a function in the module of its name in `commands`; to add one, write it and name it in
`COMMANDS`. Errors become exit codes here and nowhere else.

Each command imports the flow in its function and not at the head of its module: `--help` must not
load the ledger, and `status` must not load the SDK.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Annotated

import typer

from batch_pipeline import logs, telemetry
from batch_pipeline.cli.commands.accounts import accounts
from batch_pipeline.cli.commands.approve import approve
from batch_pipeline.cli.commands.backup import backup
from batch_pipeline.cli.commands.dead_letters import dead_letters
from batch_pipeline.cli.commands.demo import demo
from batch_pipeline.cli.commands.estimate import estimate
from batch_pipeline.cli.commands.export import export
from batch_pipeline.cli.commands.init import init
from batch_pipeline.cli.commands.jobs import jobs, validate
from batch_pipeline.cli.commands.metrics import metrics
from batch_pipeline.cli.commands.preview import preview
from batch_pipeline.cli.commands.prune import prune
from batch_pipeline.cli.commands.reconcile_costs import reconcile_costs
from batch_pipeline.cli.commands.recover import recover
from batch_pipeline.cli.commands.report import report
from batch_pipeline.cli.commands.run import cancel, run
from batch_pipeline.cli.commands.show import show
from batch_pipeline.cli.commands.simulator import simulator
from batch_pipeline.cli.commands.status import status
from batch_pipeline.cli.output import COMPLETE, INTERRUPTED, PROGRAM, USAGE, Output, report_error
from batch_pipeline.errors import BatchPipelineError

# In the order of `--help`.
COMMANDS = (
    demo,
    init,
    jobs,
    validate,
    preview,
    estimate,
    run,
    status,
    show,
    report,
    export,
    approve,
    cancel,
    prune,
    backup,
    recover,
    accounts,
    reconcile_costs,
    metrics,
    simulator,
)

app = typer.Typer(
    help="One LLM answer for each of a million documents, overnight, at half price.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(PROGRAM, version(PROGRAM))
        raise typer.Exit(COMPLETE)


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass  # its help is that of `app`


for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(dead_letters, name="dead-letter")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code; errors are printed in the form that was asked for."""
    # Files that libraries make on the way are for this user alone.
    former = os.umask(0o077)
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    finally:
        os.umask(former)
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    output = Output(as_json="--json" in arguments)
    if threading.current_thread() is threading.main_thread():
        # A service manager stops a program by SIGTERM, a terminal that is lost by SIGHUP: end as
        # after Ctrl-C. `nohup` lets SIGHUP be ignored.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        _set_up_logs()
        code = app(list(arguments), PROGRAM, standalone_mode=False, obj=output) or COMPLETE
        if code == INTERRUPTED:  # typer returns it after Ctrl-C, and prints nothing
            raise KeyboardInterrupt
    except typer.Exit as done:
        code = done.exit_code
    except typer.TyperException as error:
        # Without a message: no command was given, and the help has been printed.
        message = _usage_message(error)
        code = report_error(output, "usage", message, error.exit_code) if message else USAGE
    except BatchPipelineError as error:
        code = report_error(output, error.code, str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        message = "Interrupted; run the same command again to go on."
        code = report_error(output, "interrupted", message, INTERRUPTED)
    except Exception as error:
        known = _explained(error)
        if known is not None:
            code = report_error(output, known.code, str(known), known.exit_code)
        else:  # a bug: its trace on stderr, and one JSON document all the same
            logging.getLogger(__name__).exception("unexpected error")
            code = report_error(output, "internal", f"{type(error).__name__}: {error}", 1)
    return code


def _set_up_logs() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logs.formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("batch_pipeline").setLevel(logging.INFO)
    telemetry.configure()


def _explained(error: Exception) -> BatchPipelineError | None:
    """The error for the user that an error of disk, database or object store means; None: a bug."""
    from batch_pipeline.settings import Settings
    from batch_pipeline.storage import storage_errors

    try:
        home = Settings.from_environment().home
    except BatchPipelineError:
        return None
    return storage_errors.explain(error, home)


def _usage_message(error: typer.TyperException) -> str:
    """What was wrong with the command line, and where its help is."""
    message: str = error.format_message()
    context = getattr(error, "ctx", None)
    if not message or context is None:
        return message
    return f"{message.rstrip('.')}. See `{context.command_path} --help`."
