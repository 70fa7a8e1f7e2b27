"""What works in a prompt, and does other than it seems to: told by `validate`, `estimate` and runs.

Belongs here: what the declaration alone tells. What cannot work is an error of `jobs`.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from batch_pipeline.flow.dataset.cache_marks import prefix_params
from batch_pipeline.flow.gates.cache_marks import asked
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.pricing.caching import minimum_tokens
from batch_pipeline.pricing.documents import visuals_at_most

# As in `costs.tokens`: what a prefix's length is taken for until the API counts it.
_BYTES_PER_TOKEN = 3.5
# The parameters that are part of what the model reads.
_PREFIX = ("tools", "system", "messages", "output_config")


def of(spec: JobSpec) -> list[str]:
    """The warnings of a job's prompt, each beginning with the key that it is about."""
    return [*_prefix_too_short(spec), *_texts_alone(spec), *_fewer_pages(spec)]


def _prefix_too_short(spec: JobSpec) -> Iterator[str]:
    """A mark on a prefix that is shorter than its model's minimum is ignored by the API."""
    if spec.caching == "off":
        return
    for declaration in asked(spec):
        least = minimum_tokens(declaration.model_id)
        params = orjson.loads(prefix_params(declaration))
        size = sum(len(orjson.dumps(params[key])) for key in _PREFIX if key in params)
        tokens = int(size / _BYTES_PER_TOKEN)
        if least is None or tokens >= least:
            continue
        # No token has less than a byte.
        sure = "" if size < least else "probably "
        then = "marks do nothing" if spec.caching != "auto" else "nothing is marked"
        yield (
            f"caching: the prefix that all requests share has about {tokens:,} tokens, and "
            f"{declaration.model_id} caches from {least:,} on: {sure}{then}"
        )


def _texts_alone(spec: JobSpec) -> Iterator[str]:
    if not spec.prompt.of_documents:
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
