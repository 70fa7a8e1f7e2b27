"""The Celery executor for processes that cut an input of some hundred kB into many pieces.

They are told by BATCH_PIPELINE_EXECUTOR, which each of Dagster's processes reads.
"""

from __future__ import annotations

from batch_pipeline.flow.dataset.reading import splits
from batch_pipeline.orchestration.definitions import executors

splits.PIECE_BYTES = 16 << 10

celery = executors.of_name("celery")
