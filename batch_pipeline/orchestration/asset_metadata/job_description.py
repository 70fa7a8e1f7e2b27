"""A job's declaration as the page of its first asset shows it."""

from __future__ import annotations

from batch_pipeline import safe_text
from batch_pipeline.jobs.partitions import partitions
from batch_pipeline.jobs.spec import JobSpec


def of(spec: JobSpec) -> str:
    """The job's declaration as a Markdown table."""
    rows = {
        "input": f"`{spec.input.origin}`, ids in `{spec.input.id_column}`",
        "model": f"`{spec.model_id}`, at most {spec.max_tokens:,} tokens of output",
        "partitions": partitions.describe(spec.partitions),
        "schedule": f"`{spec.schedule}`" if spec.schedule else "none",
        "pilot": (
            f"{spec.pilot.size:,} documents via {spec.pilot.via}{_reviewed(spec)}"
            if spec.pilot.size
            else "none"
        ),
        "batches": f"at most {spec.limits.max_requests_per_batch:,} requests",
        "attempts": f"at most {spec.retry.max_attempts}",
        "caching": spec.caching,
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    about = spec.description or "The documents of a night, as they were when it began."
    return f"{about}\n\n| declared | |\n|---|---|\n{table}"


def _reviewed(spec: JobSpec) -> str:
    return ", reviewed by a person" if spec.pilot.review == "required" else ""


def _cell(text: str) -> str:
    """Text that cannot break out of a Markdown table."""
    return safe_text.one_line(text.replace("\n", " ")).replace("|", "\\|")
