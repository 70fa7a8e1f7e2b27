"""`simulator`: a Message Batches API to develop against, served until it is stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from batch_pipeline.errors import UsageError


def simulator(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ],
    turnaround: Annotated[
        float, typer.Option(min=0, help="Seconds that a batch takes, about.")
    ] = 2.0,
    queue_limit: Annotated[
        int,
        typer.Option(min=1, help="The most requests in process at once, for each organisation."),
    ] = 200_000,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal answers.")] = 0,
    latency: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="What a real-time message takes.")
    ] = 0.0,
    cache_hits: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Of a batch's requests, how many find the cache."
        ),
    ] = 0.9,
    messages_rpm: Annotated[
        int | None, typer.Option(min=1, help="Rate limit: real-time messages a minute.")
    ] = None,
    messages_itpm: Annotated[
        int | None, typer.Option(min=1, help="Their input tokens a minute.")
    ] = None,
    messages_otpm: Annotated[
        int | None, typer.Option(min=1, help="Their output tokens a minute.")
    ] = None,
    state_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder that keeps batches and books over a restart. Without it, each port has "
            "one under ~/.local/state, and port 0 a temporary one."
        ),
    ] = None,
    faults: Annotated[
        str | None, typer.Option(metavar="FILE", help="YAML or JSON: what goes wrong, and when.")
    ] = None,
) -> None:
    """Serve a Message Batches API to develop against; takes any non-empty key.

    A key `any@WORKSPACE/ORGANISATION` belongs to that workspace.
    """
    from batch_pipeline.simulator import (
        Faults,
        FaultsError,
        MessageLimits,
        StateInUseError,
        default_state_dir,
        load_faults,
        serve,
    )

    try:
        declared = Faults() if faults is None else load_faults(faults)
    except FaultsError as error:
        raise UsageError(str(error)) from error
    try:
        serve(
            port=port,
            turnaround=turnaround,
            queue_limit=queue_limit,
            seed=seed,
            state_dir=state_dir or (default_state_dir(port) if port else None),
            faults=declared,
            message_limits=MessageLimits(messages_rpm, messages_itpm, messages_otpm),
            latency=latency,
            cache_hits=cache_hits,
            on_ready=lambda url: print(f"Simulator listens on {url}", flush=True),
        )
    except StateInUseError as error:
        raise UsageError(
            f"Another simulator keeps its batches in {error}. Stop it, or choose another folder "
            "with `--state-dir`."
        ) from error
    except OSError as error:
        raise UsageError(
            f"The simulator cannot start on port {port}: {error.strerror or error}. Choose another "
            "with `--port`, or `--port 0` for a free one."
        ) from error
