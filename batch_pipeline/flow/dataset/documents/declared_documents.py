"""What a job declares of documents, filled in for one night."""

from __future__ import annotations

from batch_pipeline.flow.dataset.documents.resolve import DocumentInput
from batch_pipeline.flow.dataset.reading.listing import environ_with, expand_path
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.partitions import path_patterns
from batch_pipeline.jobs.spec import JobSpec


def document_input(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    *,
    from_copies: bool,
    store_sources: bool = False,
    fetch_again: bool = False,
) -> DocumentInput:
    """What rows' documents are looked for by; see `DocumentInput`.

    Raises UsageError where `input.root` needs a variable that is not set.
    """
    declared, home = spec.input, pipeline.files.home
    root = declared.root
    if root is not None:
        root = path_patterns.fill(root, spec.partitions, partition)
        root = expand_path(root, partition, environ_with(pipeline.settings.home), "input.root")
    return DocumentInput(
        home=home,
        job=spec.name,
        partition=partition,
        root=root,
        hosts=declared.hosts,
        keep=declared.keep,
        pdf_as_text=declared.pdf.sent_as == "text",
        pdf_pages=declared.pdf.ranges,
        from_copies=from_copies,
        store_sources=store_sources,
        fetch_again=fetch_again,
    )
