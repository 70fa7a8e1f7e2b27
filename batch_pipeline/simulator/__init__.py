"""A Message Batches API over real HTTP, to develop and test against without a key or a bill.

This package shares no code with the pipeline, so that a mistake of the pipeline about the API shows
against it. This module names what other code may use of it.
"""

from __future__ import annotations

from batch_pipeline.simulator.books.books import Books
from batch_pipeline.simulator.books.content_digest import content_hash
from batch_pipeline.simulator.database import StateInUseError
from batch_pipeline.simulator.faults.declaration import Faults
from batch_pipeline.simulator.faults.file import FaultsError, load_faults, parse_faults
from batch_pipeline.simulator.rate_limits import MessageLimits
from batch_pipeline.simulator.server import (
    Simulator,
    default_state_dir,
    running_simulator,
    serve,
)
from batch_pipeline.simulator.wire import SIMULATOR_HEADER
from batch_pipeline.simulator.workspaces import Workspace

__all__ = [
    "SIMULATOR_HEADER",
    "Books",
    "Faults",
    "FaultsError",
    "MessageLimits",
    "Simulator",
    "StateInUseError",
    "Workspace",
    "content_hash",
    "default_state_dir",
    "load_faults",
    "parse_faults",
    "running_simulator",
    "serve",
]
