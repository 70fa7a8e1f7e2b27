"""`metrics`: figures for Prometheus and the like, printed once or served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.output import COMPLETE, Output

if TYPE_CHECKING:
    from batch_pipeline.flow.status.metrics import Collector


def metrics(
    context: typer.Context,
    serve: Annotated[
        int | None,
        typer.Option("--serve", metavar="PORT", help="Serve them until stopped; 0: a free port."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to serve at; others see what is spent.")
    ] = "127.0.0.1",
) -> int:
    """Print metrics of all jobs as OpenMetrics text, or serve them."""
    from batch_pipeline.cli.commands.status import alert_limits
    from batch_pipeline.flow.status.metrics import Collector, openmetrics

    output: Output = context.obj
    pipeline = opening.open_pipeline(context)
    settings = pipeline.settings
    collector = Collector(pipeline.ledger, settings, lambda: alert_limits(settings))
    if serve is None:
        print(openmetrics(collector), end="")
        return COMPLETE
    _serve(output, collector, serve, host)
    return COMPLETE


def _serve(output: Output, collector: Collector, port: int, host: str) -> None:
    """Answer at `/metrics` until the process is stopped."""
    from prometheus_client import CollectorRegistry, start_http_server

    from batch_pipeline.errors import UsageError

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise UsageError(f"Metrics cannot be served at {host}:{port}: {error.strerror}.") from None
    output.say(f"Metrics at http://{host}:{server.server_port}/metrics")
    try:
        thread.join()
    finally:
        server.shutdown()
        server.server_close()
