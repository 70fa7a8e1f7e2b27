"""Runs the simulator, in a thread for tests and demonstrations or in the foreground.

The parts of the other modules are put together here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from batch_pipeline.simulator.answers.prompt_cache import DEFAULT_HITS, PromptCache
from batch_pipeline.simulator.app import Api, Hooks
from batch_pipeline.simulator.batches.batch import Pace
from batch_pipeline.simulator.batches.settlement import Responder
from batch_pipeline.simulator.batches.spool import Spool
from batch_pipeline.simulator.batches.store import BatchStore
from batch_pipeline.simulator.books.books import Books
from batch_pipeline.simulator.connection import CuttableProtocol
from batch_pipeline.simulator.database import Database
from batch_pipeline.simulator.faults.declaration import Faults
from batch_pipeline.simulator.faults.schedule import FaultSchedule
from batch_pipeline.simulator.rate_limits import MessageLimits, RateLimiters
from batch_pipeline.simulator.workspaces import DEFAULT, Workspace

HOST = "127.0.0.1"
NO_LIMITS = MessageLimits()
_START_SECONDS = 30
_SHUTDOWN_SECONDS = 2
# uvicorn's interval between ticks, in which it updates its date header.
_TICK_SECONDS = 0.1
# Turns of the event loop until an idle connection is closed.
_ROUNDS_TO_CLOSE = 3
_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}},
    "loggers": {"uvicorn": {"handlers": ["stderr"], "level": "ERROR", "propagate": False}},
}


class Simulator:
    """A running simulator, as tests control it."""

    def __init__(
        self, url: str, store: BatchStore, books: Books, schedule: FaultSchedule,
        rates: RateLimiters, api: Api, cache: PromptCache,
    ) -> None:  # fmt: skip
        self.url = url
        """Base URL without a trailing slash, for `ANTHROPIC_BASE_URL`."""
        self.books = books
        self._store = store
        self._schedule = schedule
        self._rates = rates
        self._api = api
        self._cache = cache

    def set_faults(self, faults: Faults) -> None:
        """Declare these faults from now on; scripts and counts of calls begin again."""
        self._schedule.replace(faults)

    def create_foreign_batch(
        self, requests: int, workspace: str = DEFAULT, organisation: str = DEFAULT
    ) -> str:
        """Create a batch of another tenant of a workspace; returns its id."""
        return self._store.create_foreign(requests, Workspace(workspace, organisation)).id

    @property
    def turnaround(self) -> float:
        """Seconds from creation to end; each batch takes 0.5 to 1.5 times that."""
        return self._store.pace.turnaround

    def set_turnaround(self, seconds: float) -> None:
        """Change the turnaround, of running batches as well."""
        self._store.pace.turnaround = seconds

    def set_message_limits(self, limits: MessageLimits, organisation: str | None = None) -> None:
        """Set the rate limits of real-time messages, with full buckets.

        Of one organisation, or (None) of all that have none of their own.
        """
        self._rates.replace(limits, organisation)

    def set_latency(self, seconds: float) -> None:
        """Set the seconds that a real-time message takes."""
        self._api.latency = seconds

    def set_queue_limit(self, requests: int, organisation: str | None = None) -> None:
        """Set the queue limit of one organisation, or (None) of all that have none of their own."""
        self._store.set_queue_limit(requests, organisation)

    @property
    def queued(self) -> int:
        """Requests in batches that have not ended, other tenants' included, everywhere."""
        return self._store.queued()

    def queued_of(self, organisation: str) -> int:
        """Requests in an organisation's batches that have not ended, other tenants' included."""
        return self._store.queued(organisation)

    def hold(self) -> None:
        """Let no batch end from now on, except canceled ones."""
        self._store.pace.hold()

    def release(self) -> None:
        """Undo `hold`: each batch whose turnaround is over ends at the next request."""
        self._store.pace.release()

    def set_done_at_cancel(self, share: float | None) -> None:
        """Set the share of a canceled batch that is answered; None: by its elapsed turnaround."""
        self._store.pace.done_at_cancel = share

    def set_cache_hits(self, share: float) -> None:
        """Set the share of a batch's requests that find an entry of the prompt cache."""
        self._cache.batch_hits = share

    def age_cache(self, seconds: float) -> None:
        """Let entries of the prompt cache grow older by `seconds`, as if that time had passed."""
        self._cache.pass_time(seconds)


class _Parts(NamedTuple):
    api: Api
    store: BatchStore
    books: Books
    schedule: FaultSchedule
    rates: RateLimiters
    cache: PromptCache


@contextlib.contextmanager
def running_simulator(
    *,
    turnaround: float = 2.0,
    queue_limit: int = 200_000,
    seed: int = 0,
    state_dir: Path | str | None = None,
    port: int = 0,
    faults: Faults | None = None,
    message_limits: MessageLimits = NO_LIMITS,
    latency: float = 0.0,
    cache_hits: float = DEFAULT_HITS,
    hooks: Hooks | None = None,
) -> Iterator[Simulator]:
    """A simulator in a thread of this process, answering when the block begins.

    Without `state_dir` batches and books are kept in a temporary folder until the end of the block.
    The books cannot be read after the block. Port 0 takes a free one. `hooks` see a call before
    `faults` do.

    Errors: `StateInUseError` if another simulator uses `state_dir`.
    """
    with _assembled(
        turnaround, queue_limit, seed, state_dir, faults, message_limits, latency, cache_hits, hooks
    ) as parts:
        listener = _listen(port)
        server = _Server(_config(parts.api.asgi()))
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="simulator", daemon=True
        )
        thread.start()
        try:
            if not server.ready.wait(_START_SECONDS):
                raise RuntimeError(f"The simulator did not start within {_START_SECONDS} s.")
            yield Simulator(
                _url(listener),
                parts.store,
                parts.books,
                parts.schedule,
                parts.rates,
                parts.api,
                parts.cache,
            )
        finally:
            server.stop()
            thread.join()


def serve(
    port: int,
    *,
    turnaround: float = 2.0,
    queue_limit: int = 200_000,
    seed: int = 0,
    state_dir: Path | str | None = None,
    faults: Faults | None = None,
    message_limits: MessageLimits = NO_LIMITS,
    latency: float = 0.0,
    cache_hits: float = DEFAULT_HITS,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run in the foreground until SIGINT or SIGTERM; `on_ready` gets the URL once it listens.

    Without `state_dir` batches and books are kept in a temporary folder until the end.

    Errors: `OSError` if the port is taken, `StateInUseError` if another simulator uses `state_dir`.
    """
    # The port first: one that is taken must not leave a state folder behind.
    with (
        contextlib.closing(_listen(port)) as listener,
        _assembled(
            turnaround,
            queue_limit,
            seed,
            state_dir,
            faults,
            message_limits,
            latency,
            cache_hits,
            None,
        ) as parts,
    ):
        url = _url(listener)
        app = parts.api.asgi()
        server = _Server(_config(app), on_ready=(lambda: on_ready(url)) if on_ready else None)
        # uvicorn raises a signal again after its shutdown. SIGTERM would then kill the process
        # before the temporary folder is removed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def default_state_dir(port: int) -> Path:
    """The state folder of the simulator on a port: `~/.local/state/batch-pipeline/simulator/PORT`.

    Ledgers name batches by the port's URL, so that each port has batches of its own. Neither a
    cache nor the temporary folder: both may be emptied while a night waits for its batches.
    """
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "batch-pipeline" / "simulator" / str(port)


@contextlib.contextmanager
def _assembled(
    turnaround: float,
    queue_limit: int,
    seed: int,
    state_dir: Path | str | None,
    faults: Faults | None,
    message_limits: MessageLimits,
    latency: float,
    cache_hits: float,
    hooks: Hooks | None,
) -> Iterator[_Parts]:
    with contextlib.ExitStack() as stack:
        if state_dir is None:
            state_dir = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="batch_simulator_", ignore_cleanup_errors=True)
            )
        folder = Path(state_dir)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = Database(folder / "simulator.sqlite")
        stack.callback(database.close)
        books = Books(database)
        spool = Spool(folder / "spool")
        responder = Responder(seed)
        responder.cache.batch_hits = cache_hits
        schedule = FaultSchedule(faults or Faults(), seed)
        pace = Pace(turnaround)
        store = BatchStore(
            database, books, spool, responder, schedule, pace=pace, queue_limit=queue_limit
        )
        rates = RateLimiters(message_limits)
        api = Api(store, books, spool, responder, schedule, rates, latency, hooks or Hooks())
        yield _Parts(api, store, books, schedule, rates, responder.cache)


class _Server(uvicorn.Server):
    """A uvicorn server that tells when it is ready, and ends at once if no call is under way.

    uvicorn takes 0.15 seconds to end, and hundreds of tests start a simulator each.
    """

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None] | None = None) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._on_ready = on_ready
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """End the server; called from another thread."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        self.ready.set()
        if self._on_ready is not None:
            self._on_ready()

    async def main_loop(self) -> None:
        ticks = itertools.count()
        while not await self.on_tick(next(ticks)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        state = self.server_state
        for server in self.servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()
        for _ in range(_ROUNDS_TO_CLOSE):
            await asyncio.sleep(0)
        if state.connections or state.tasks:
            await super().shutdown(sockets)
            return
        for listener in sockets or []:
            listener.close()
        for server in self.servers:
            await server.wait_closed()


def _config(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=CuttableProtocol,
        ws="none",
        proxy_headers=False,  # there is no proxy
        lifespan="off",
        access_log=False,
        log_config=_LOGGING,
        timeout_keep_alive=75,  # longer than clients keep idle connections for reuse
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}"
