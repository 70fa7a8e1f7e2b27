"""What a component file of Dagster holds beside `attributes`, and what of it a job cannot have.

Belongs here: `type`, `template_vars_module`, `requirements` and `post_processing`, as far as they
can be checked without Dagster, which fills in their templates and applies them:
`orchestration.definitions.post_processing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from batch_pipeline.jobs.yaml_files.yaml_lines import KeyPath

COMPONENT_TYPE = "batch_pipeline.BatchJobComponent"
KEYS = ("type", "attributes", "template_vars_module", "requirements", "post_processing")
# What a post-processor may not set, since a night would no longer work, and what to do instead.
_REFUSED = {
    "partitions_def": (
        "would leave the command line and the sensor with other nights than Dagster; declare "
        "`partitions` among the attributes"
    ),
    "deps": "would tear the job's assets apart; name what comes before under input.upstream",
    "skippable": "is how the results wait for the batches; it stays as it is",
}


@dataclass(frozen=True)
class BesideAttributes:
    """What stands beside the attributes of a job; `env` are the variables that it requires."""

    template_vars_module: str | None = None
    env: tuple[str, ...] = ()
    post_processing: Mapping[str, Any] = field(default_factory=dict)


def beside_attributes(document: Mapping[str, Any]) -> BesideAttributes:
    """What stands beside the attributes of a document without problems."""
    return BesideAttributes(
        template_vars_module=document.get("template_vars_module"),
        env=tuple((document.get("requirements") or {}).get("env") or ()),
        post_processing=document.get("post_processing") or {},
    )


def problems(document: object) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong around the attributes, by the path of its key."""
    if not isinstance(document, dict):
        yield (), f"must be a mapping with type: {COMPONENT_TYPE} and attributes"
        return
    for key in document:
        if key not in KEYS:
            yield (key,), f"unknown key; a declaration has {', '.join(KEYS)}"
    if document.get("type") != COMPONENT_TYPE:
        yield ("type",), f"must be {COMPONENT_TYPE}"
    if not isinstance(document.get("attributes"), dict):
        yield ("attributes",), "must be a mapping of the job's keys"
    if not isinstance(document.get("template_vars_module"), str | None):
        yield ("template_vars_module",), "must be the name of a module, like .template_vars"
    yield from _requirements(document.get("requirements"))
    yield from _post_processing(document.get("post_processing"))


def _requirements(value: object) -> Iterator[tuple[KeyPath, str]]:
    if value is None:
        return
    wrong = "must be env: a list of names of environment variables"
    if not isinstance(value, dict) or set(value) - {"env"}:
        yield ("requirements",), wrong
        return
    names = value.get("env")
    listed = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if names is not None and not listed:
        yield ("requirements", "env"), wrong


def _post_processing(value: object) -> Iterator[tuple[KeyPath, str]]:
    if value is None:
        return
    if not isinstance(value, dict) or set(value) - {"assets"}:
        yield ("post_processing",), "must be assets: a list of target, operation and attributes"
        return
    processors = value.get("assets")
    if processors is None:
        return
    if not isinstance(processors, list):
        yield ("post_processing", "assets"), "must be a list of target, operation and attributes"
        return
    for number, processor in enumerate(processors):
        path: KeyPath = ("post_processing", "assets", number)
        attributes = processor.get("attributes") if isinstance(processor, dict) else None
        if not isinstance(attributes, dict):
            yield path, "must have attributes: a mapping of what is set on the assets"
            continue
        for key, message in _REFUSED.items():
            if key in attributes:
                yield (*path, "attributes", key), message
        if processor.get("operation") == "replace" and "metadata" in attributes:
            yield (
                (*path, "operation"),
                "would take away the metadata by which results are read; leave it out to merge",
            )
