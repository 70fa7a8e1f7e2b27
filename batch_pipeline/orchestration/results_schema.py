"""The columns of the results, explained for Dagster's catalogue."""

from __future__ import annotations

import dagster as dg

from batch_pipeline.flow.schemas import RESULTS_SCHEMA

_MEANING = {
    "id": "the user's own id",
    "status": "succeeded, or why not",
    "content": "the answer's text",
    "parsed": "the answer as JSON text, where a schema is declared",
    "stop_reason": "why the model stopped",
    "error_type": "kind of error, where there is no good answer",
    "error_message": "what went wrong, in words",
    "model": "the model that answered",
    "input_tokens": "billed for this item in this night, cached ones apart",
    "output_tokens": "billed for this item in this night",
    "cache_write_5m_tokens": "billed for this item in this night",
    "cache_write_1h_tokens": "billed for this item in this night",
    "cache_read_tokens": "billed for this item in this night",
    "cost_usd": "billed for this item in this night",
    "attempt": "which attempt this answer is",
    "mode": "batch or realtime",
    "batch_id": "the API's batch",
    "custom_id": "the id on the wire",
    "fingerprint": "identifies the request by its content",
    "simulated": "whether a simulator answered",
    "collected_at": "when the answer was fetched",
}

RESULTS_TABLE = dg.TableSchema(
    columns=[
        dg.TableColumn(field.name, type=str(field.type), description=_MEANING[field.name])
        for field in RESULTS_SCHEMA
    ]
)
