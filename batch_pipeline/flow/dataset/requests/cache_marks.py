"""Where the cache mark of a request stands: at the end of what all requests of a job share.

The API caches a prompt from its beginning (tools, schema, system prompt, messages, in this order)
to a block with a mark. One mark, at the last block that all requests share, covers everything
before it. A schema is part of that beginning, but no mark can stand at it. Whether a submission is
sent with marks is decided when it is claimed; how requests are put together stands in
`request_builder`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import orjson

from batch_pipeline.flow.dataset.requests.prompt import USER, Prompt
from batch_pipeline.jobs.prompts.template import Template
from batch_pipeline.pricing.tokens import Lifetime

if TYPE_CHECKING:
    from batch_pipeline.flow.dataset.requests.declaration import Declaration

# `message`: in the last turn; `turns`: in one before it, an example perhaps.
Place = Literal["message", "turns", "system", "tools"]


def place_of(declaration: Declaration) -> Place | None:
    """The last part of the prompt that all requests share; None: they share nothing to mark."""
    prompt = Prompt.of(declaration)
    if prompt.shared is not None:
        last = len(prompt.fixed_turns) - 1
        return "message" if prompt.shared.turn == last else "turns"
    if declaration.system is not None:
        return "system"
    return "tools" if _last_markable(declaration.params.get("tools") or ()) is not None else None


def control(lifetime: Lifetime | None) -> dict[str, Any]:
    """The mark of a block.

    The lifetime is always said, so that a mark has the same length in bytes for each.
    """
    return {"type": "ephemeral", "ttl": lifetime}


def as_blocks(
    template: Template, lifetime: Lifetime | None
) -> tuple[bytes, tuple[str, ...], bytes]:
    """A turn as blocks, the text before its first placeholder marked: the JSON before the text that
    differs, to its opening quote, the literals of that text, and the JSON after it."""
    shared, *others = template.literals
    marked = orjson.dumps({"type": "text", "text": shared, "cache_control": control(lifetime)})
    if others:
        return b"[" + marked + b',{"type":"text","text":"', ("", *others), b'"}]'
    # The whole turn is shared: its one block has the mark.
    text = orjson.dumps(shared)
    before, _, after = marked.partition(text)
    return b"[" + before + text[:1], template.literals, text[-1:] + after + b"]"


def marked_system(
    system: str | Sequence[dict[str, Any]], lifetime: Lifetime | None
) -> list[dict[str, Any]]:
    """The system prompt as blocks, the last one with a mark."""
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else list(system)
    return [*blocks[:-1], {**blocks[-1], "cache_control": control(lifetime)}]


def marked_tools(tools: Sequence[Any], lifetime: Lifetime | None) -> list[Any]:
    """The tools, the last one that may carry a mark with one."""
    marked = _last_markable(tools)
    return [
        {**tool, "cache_control": control(lifetime)} if number == marked else tool
        for number, tool in enumerate(tools)
    ]


def _last_markable(tools: Sequence[Any]) -> int | None:
    """The position of the last tool that is part of the prompt; one that is loaded later is not."""
    found = [n for n, tool in enumerate(tools) if not tool.get("defer_loading")]
    return found[-1] if found else None


def prefix_params(declaration: Declaration) -> bytes:
    """Messages parameters whose prompt is the shared prefix alone, for the API to count its tokens.

    A message may not be empty, and the last one is the user's: where the prefix ends before it, it
    is one character.
    """
    params: dict[str, Any] = {"model": declaration.model_id, "max_tokens": declaration.max_tokens}
    if declaration.system is not None:
        params["system"] = declaration.system
    params["messages"] = _shared_messages(Prompt.of(declaration))
    params |= declaration.params
    if declaration.output_schema is not None:
        output_format = {"type": "json_schema", "schema": declaration.output_schema}
        params["output_config"] = {**params.get("output_config", {}), "format": output_format}
    return orjson.dumps(params)


def _shared_messages(prompt: Prompt) -> list[dict[str, str]]:
    shared = prompt.shared
    if shared is None:
        return [{"role": USER, "content": "."}]
    turns = prompt.fixed_turns[: shared.turn + 1]
    found = [{"role": turn.role, "content": turn.template.literals[0]} for turn in turns]
    return found if turns[-1].role == USER else [*found, {"role": USER, "content": "."}]


def prefix_key(declaration: Declaration) -> str:
    """32 hex characters that tell one shared prefix from another, its model included.

    What changes with it need not be a part of the prompt: an effort, for example, may change what
    the model is told. `max_tokens` never does.
    """
    params = {**orjson.loads(prefix_params(declaration)), "max_tokens": 0}
    raw = orjson.dumps([params, declaration.betas], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(raw).hexdigest()[:32]
