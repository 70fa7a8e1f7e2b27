"""Where the cache mark of a request stands: at the end of what all requests of a job share.

The API caches a prompt from its beginning (tools, schema, system prompt, messages, in this order)
to a block with a mark. One mark, at the last block that all requests share, covers everything
before it. A schema is part of that beginning, but no mark can stand at it. Whether a submission is
sent with marks is decided when it is claimed; how requests are put together stands in `requests`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import orjson

from batch_pipeline.flow.dataset.template import Template
from batch_pipeline.pricing.tokens import Lifetime

if TYPE_CHECKING:
    from batch_pipeline.flow.dataset.requests import Declaration

Place = Literal["message", "system", "tools"]


def place_of(declaration: Declaration) -> Place | None:
    """The last part of the prompt that all requests share; None: they share nothing to mark."""
    if Template.parse(declaration.user).literals[0].strip():
        return "message"
    if declaration.system is not None:
        return "system"
    return "tools" if _last_markable(declaration.params.get("tools") or ()) is not None else None


def block(text: str, lifetime: Lifetime | None) -> dict[str, Any]:
    """A block of text with a mark.

    The lifetime is always said, so that a mark has the same length in bytes for each.
    """
    return {"type": "text", "text": text, "cache_control": _control(lifetime)}


def as_blocks(template: Template, lifetime: Lifetime | None) -> tuple[Template, bytes, bytes]:
    """A prompt as blocks, the text before its first placeholder marked: the template of the last
    block's text, and the JSON before and after that text."""
    shared, *others = template.literals
    marked = orjson.dumps(block(shared, lifetime))
    if others:
        rest = Template(("", *others), template.slots)
        return rest, b"[" + marked + b',{"type":"text","text":', b"}]"
    # The whole prompt is shared: its one block has the mark.
    before, _, after = marked.partition(orjson.dumps(shared))
    return template, b"[" + before, after + b"]"


def marked_tools(tools: Sequence[Any], lifetime: Lifetime | None) -> list[Any]:
    """The tools, the last one that may carry a mark with one."""
    marked = _last_markable(tools)
    return [
        {**tool, "cache_control": _control(lifetime)} if number == marked else tool
        for number, tool in enumerate(tools)
    ]


def _control(lifetime: Lifetime | None) -> dict[str, Any]:
    return {"type": "ephemeral", "ttl": lifetime}


def _last_markable(tools: Sequence[Any]) -> int | None:
    """The position of the last tool that is part of the prompt; one that is loaded later is not."""
    found = [n for n, tool in enumerate(tools) if not tool.get("defer_loading")]
    return found[-1] if found else None


def prefix_params(declaration: Declaration) -> bytes:
    """Messages parameters whose prompt is the shared prefix alone, for the API to count its tokens.

    A message may not be empty: where the prefix ends before it, the message is one character.
    """
    literal = Template.parse(declaration.user).literals[0]
    params: dict[str, Any] = {"model": declaration.model_id, "max_tokens": declaration.max_tokens}
    if declaration.system is not None:
        params["system"] = declaration.system
    params["messages"] = [{"role": "user", "content": literal if literal.strip() else "."}]
    params |= declaration.params
    if declaration.output_schema is not None:
        output_format = {"type": "json_schema", "schema": declaration.output_schema}
        params["output_config"] = {**params.get("output_config", {}), "format": output_format}
    return orjson.dumps(params)


def prefix_key(declaration: Declaration) -> str:
    """32 hex characters that tell one shared prefix from another, its model included.

    What changes with it need not be a part of the prompt: an effort, for example, may change what
    the model is told. `max_tokens` never does.
    """
    params = {**orjson.loads(prefix_params(declaration)), "max_tokens": 0}
    raw = orjson.dumps([params, declaration.betas], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(raw).hexdigest()[:32]
