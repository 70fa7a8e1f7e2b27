"""What works in a prompt, and does other than it seems to: told by `validate`, `estimate` and runs.

Belongs here: what the declaration alone tells. What cannot work is an error of `jobs`.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from batch_pipeline.flow.dataset.requests.cache_marks import prefix_params
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates.cache_marks import asked
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.pricing.caching import minimum_tokens
from batch_pipeline.pricing.documents import visuals_at_most
from batch_pipeline.pricing.tokens import RULE_BYTES_PER_TOKEN

# From then on documents are likely to change before they are sent.
_LONG_HOURS = 24


def of(spec: JobSpec) -> list[str]:
    """The warnings of a job's prompt, each beginning with the key that it is about."""
    return [
        *_prefix_too_short(spec),
        *_texts_alone(spec),
        *_fewer_pages(spec),
        *_documents_that_may_change(spec),
    ]


def _prefix_too_short(spec: JobSpec) -> Iterator[str]:
    """A mark on a prefix that is shorter than its model's minimum is ignored by the API.

    What `caching` comes to for the job's own model is told by the forecast of `validate` and
    `estimate`.
    """
    own, *others = asked(spec)
    if spec.caching != "off":
        key, declared = "caching", others
    elif any(block.cache_control for block in spec.prompt.blocks):
        key, declared = "prompt.system", [own, *others]
    else:
        return
    for declaration in declared:
        least = minimum_tokens(declaration.model_id)
        size = _size_of(declaration, whole=spec.caching != "off")
        tokens = int(size / RULE_BYTES_PER_TOKEN)
        if least is not None and tokens < least:
            # No token has less than a byte.
            sure = "" if size < least else "probably "
            then = "nothing is marked" if spec.caching == "auto" else "marks do nothing"
            yield (
                f"{key}: what is marked for all requests has about {tokens:,} tokens, and "
                f"{declaration.model_id} caches from {least:,} on: {sure}{then}"
            )


def _size_of(declaration: Declaration, *, whole: bool) -> int:
    """The bytes of the shared prefix, or of what comes before the messages."""
    params = orjson.loads(prefix_params(declaration))
    keys = ("tools", "system", "output_config", *(("messages",) if whole else ()))
    return sum(len(orjson.dumps(params[key])) for key in keys if key in params)


def _texts_alone(spec: JobSpec) -> Iterator[str]:
    kinds = {slot.kind for slot in spec.prompt.of_documents}
    if spec.input.pdf.sent_as == "text":
        kinds.discard("pdf")
    if not kinds:
        return
    filters = spec.filters
    found = {
        "filters.min_words": filters.min_words is not None,
        "filters.max_words": filters.max_words is not None,
        "filters.languages": bool(filters.languages),
        "near_duplicates": spec.near_duplicates is not None,
    }
    for key, is_declared in found.items():
        if is_declared:
            yield (
                f"{key}: sees texts alone; images, and PDFs that are sent as pages, have none and "
                "pass"
            )


def _fewer_pages(spec: JobSpec) -> Iterator[str]:
    if not spec.prompt.of_documents:
        return
    own = visuals_at_most(spec.model_id)
    for path, way in spec.asked_all_ways()[1:]:
        most = visuals_at_most(way.model_id)
        if most < own:
            key = ".".join(map(str, path))
            yield (
                f"{key}: {way.model_id} takes {most} PDF pages and images a request, and "
                f"{spec.model_id} {own}: larger documents are set aside where it is asked"
            )


def _documents_that_may_change(spec: JobSpec) -> Iterator[str]:
    if not spec.prompt.of_documents or spec.input.keep != "reference" or spec.deadline is None:
        return
    hours = spec.deadline.removesuffix("h")
    if hours.isdigit() and int(hours) > _LONG_HOURS:
        yield (
            f"input.keep: reference reads the documents again at each send, up to {hours} hours "
            "after the input was taken; those that change by then are set aside (copy keeps them)"
        )
