"""A Message Batches API over real HTTP, to develop and test against without a key or a bill.

This package stands apart: it shares no code with the pipeline, so that what the pipeline believes
about the API is checked by something else. Here is only what other code may use of it.
"""

from __future__ import annotations

from batch_pipeline.simulator.books import Books, content_hash
from batch_pipeline.simulator.faults import Faults
from batch_pipeline.simulator.faults_file import FaultsError, load_faults, parse_faults
from batch_pipeline.simulator.rate_limits import MessageLimits
from batch_pipeline.simulator.server import Simulator, running_simulator, serve
from batch_pipeline.simulator.wire import SIMULATOR_HEADER

__all__ = [
    "SIMULATOR_HEADER",
    "Books",
    "Faults",
    "FaultsError",
    "MessageLimits",
    "Simulator",
    "content_hash",
    "load_faults",
    "parse_faults",
    "running_simulator",
    "serve",
]
