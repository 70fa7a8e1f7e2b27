"""The API's checks: of a batch at its creation, and of a request's params when it is answered.

Pure functions over parsed JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import orjson
from jsonschema_rs import ValidationError, validator_for

from batch_pipeline.simulator.answers.schemas import SchemaWriter, UnsatisfiableError
from batch_pipeline.simulator.answers.source_text import Dice, SourceText
from batch_pipeline.simulator.answers.tokens import count_input
from batch_pipeline.simulator.checking.document_checks import check_documents
from batch_pipeline.simulator.models import MODELS, Model
from batch_pipeline.simulator.wire import (
    MAX_REQUESTS_PER_BATCH,
    VERSION_WITHOUT_SAMPLING,
    ApiError,
    invalid_request,
)

CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
REFUSED_IN_BATCH = frozenset({"stream", "speed", "store"})
MAX_CACHE_MARKS = 4
SAMPLING = ("temperature", "top_p", "top_k")
KNOWN_PARAMS = frozenset({
    "cache_control", "container", "context_management", "diagnostics", "inference_geo",
    "max_tokens", "mcp_servers", "messages", "metadata", "model", "output_config", "prefill",
    "service_tier", "speed", "stop_sequences", "store", "stream", "system", "temperature",
    "thinking", "tool_choice", "tools", "top_k", "top_p",
})  # fmt: skip


def check_batch(body: Any) -> list[dict[str, Any]]:
    """The requests of a create's body. Errors: `ApiError` 400, naming the first bad request."""
    if not isinstance(body, dict):
        raise invalid_request("Input should be a valid dictionary")
    if unknown := sorted(body.keys() - {"requests"}):
        raise invalid_request(f"{unknown[0]}: Extra inputs are not permitted")
    requests = body.get("requests")
    if requests is None:
        raise invalid_request("requests: Field required")
    if not isinstance(requests, list):
        raise invalid_request("requests: Input should be a valid list")
    if not requests:
        raise invalid_request("requests: List should have at least 1 item after validation, not 0")
    if len(requests) > MAX_REQUESTS_PER_BATCH:
        raise invalid_request(
            f"requests: List should have at most {MAX_REQUESTS_PER_BATCH} items after validation,"
            f" not {len(requests)}"
        )
    seen: set[str] = set()
    for position, request in enumerate(requests):
        check_entry(position, request, seen)
    return requests


def check_entry(position: int, request: Any, seen: set[str]) -> None:
    """The check of one request at the creation of a batch; `seen` are the ids before it.

    Errors: `ApiError` 400 for the whole batch.
    """
    where = f"requests.{position}"
    if not isinstance(request, dict):
        raise invalid_request(f"{where}: Input should be a valid dictionary")
    custom_id, params = request.get("custom_id"), request.get("params")
    if len(request) != 2 and (unknown := sorted(request.keys() - {"custom_id", "params"})):
        raise invalid_request(f"{where}.{unknown[0]}: Extra inputs are not permitted")
    if not isinstance(custom_id, str):
        raise invalid_request(f"{where}.custom_id: Field required")
    if CUSTOM_ID.fullmatch(custom_id) is None:
        raise invalid_request(
            f"{where}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
        )
    if custom_id in seen:
        raise invalid_request(f"{where}.custom_id: custom_id '{custom_id}' is not unique")
    seen.add(custom_id)
    if not isinstance(params, dict):
        raise invalid_request(f"{where}.params: Field required")
    if not REFUSED_IN_BATCH.isdisjoint(params):
        refused = min(REFUSED_IN_BATCH & params.keys())
        raise invalid_request(f"{where}.params.{refused}: not supported in a batch")
    if params.get("max_tokens") == 0 and params["max_tokens"] is not False:
        raise invalid_request(f"{where}.params.max_tokens: 0 is not supported in a batch")


def check_message(params: Any, version: str, *, counting: bool = False) -> ApiError | None:
    """What is wrong with the params of one message, or None; `version` is `anthropic-version`."""
    if not isinstance(params, dict):
        return invalid_request("Input should be a valid dictionary")
    checks: tuple[Callable[[dict[str, Any]], str | None], ...] = (
        _check_keys,
        lambda params: _check_sampling(params, version),
        _check_messages,
        _check_system,
        _check_options,
        _check_tools,
        _check_output_config,
        _check_cache_marks,
    )
    for check in checks:
        if (problem := check(params)) is not None:
            return invalid_request(problem)
    if not counting and (problem := _check_max_tokens(params)) is not None:
        return invalid_request(problem)
    return _check_model(params, 0 if counting else params["max_tokens"])


def _check_keys(params: dict[str, Any]) -> str | None:
    if KNOWN_PARAMS.issuperset(params):
        return None
    return f"{min(params.keys() - KNOWN_PARAMS)}: Extra inputs are not permitted"


def _check_sampling(params: dict[str, Any], version: str) -> str | None:
    if version < VERSION_WITHOUT_SAMPLING:
        return None
    for name in SAMPLING:
        if name in params:
            return f"{name}: not supported with anthropic-version {version}"
    return None


def _check_max_tokens(params: dict[str, Any]) -> str | None:
    if "max_tokens" not in params:
        return "max_tokens: Field required"
    value = params["max_tokens"]
    if not isinstance(value, int) or isinstance(value, bool):
        return "max_tokens: Input should be a valid integer"
    if value < 1:
        return "max_tokens: Input should be greater than or equal to 1"
    return None


def _check_messages(params: dict[str, Any]) -> str | None:
    messages = params.get("messages")
    if not isinstance(messages, list):
        known = "messages" in params
        return f"messages: {'Input should be a valid list' if known else 'Field required'}"
    if not messages:
        return "messages: at least one message is required"
    problems = (_check_turn(turn, f"messages.{n}") for n, turn in enumerate(messages))
    return next((problem for problem in problems if problem is not None), None)


def _check_turn(message: Any, where: str) -> str | None:
    if not isinstance(message, dict):
        return f"{where}: Input should be a valid dictionary"
    if message.get("role") not in ("user", "assistant"):
        return f"{where}.role: Input should be 'user' or 'assistant'"
    if "content" not in message:
        return f"{where}.content: Field required"
    return _check_content(message["content"], f"{where}.content")


def _check_content(content: Any, where: str) -> str | None:
    if isinstance(content, str):
        return None if content.strip() else f"{where}: text content must be non-empty"
    if not isinstance(content, list):
        return f"{where}: Input should be a valid string or a valid list"
    if not content:
        return f"{where}: content must be non-empty"
    problems = (_check_block(block, f"{where}.{n}") for n, block in enumerate(content))
    return next((problem for problem in problems if problem is not None), None)


def _check_block(block: Any, where: str) -> str | None:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        return f"{where}.type: Field required"
    if block["type"] == "tool_result" and block.get("content"):
        return _check_result(block["content"], f"{where}.content")
    if block["type"] != "text":
        return None
    text = block.get("text")
    if not isinstance(text, str):
        return f"{where}.text: Input should be a valid string"
    return None if text.strip() else f"{where}.text: text content blocks must be non-empty"


def _check_result(content: Any, where: str) -> str | None:
    """What is wrong with the content of a tool's result, which may be an empty text."""
    return None if isinstance(content, str) else _check_content(content, where)


def _check_system(params: dict[str, Any]) -> str | None:
    system = params.get("system")
    if system is None or isinstance(system, str):
        return None
    for number, block in enumerate(system if isinstance(system, list) else ()):
        if isinstance(block, dict) and block.get("type") != "text":
            return f"system.{number}.type: Input should be 'text'"
    return _check_content(system, "system") if system else None


def _check_options(params: dict[str, Any]) -> str | None:
    if not isinstance(params.get("thinking", {}), dict):
        return "thinking: Input should be a valid dictionary"
    sequences = params.get("stop_sequences") or []
    if not isinstance(sequences, list) or not all(
        isinstance(sequence, str) and sequence.strip() for sequence in sequences
    ):
        return "stop_sequences: Input should be a valid list of non-blank strings"
    return None


def _check_tools(params: dict[str, Any]) -> str | None:
    tools = params.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return "tools: Input should be a valid list"
    for position, tool in enumerate(tools):
        where = f"tools.{position}.input_schema"
        if "input_schema" in tool and (problem := _check_schema(tool["input_schema"], where)):
            return problem
    choice = params.get("tool_choice") or {}
    if not isinstance(choice, dict):
        return "tool_choice: Input should be a valid dictionary"
    kind, name = choice.get("type"), choice.get("name")
    if kind in ("tool", "any") and not tools:
        return "tool_choice: may only be specified while providing tools"
    if kind == "tool" and name not in [tool.get("name") for tool in tools]:
        return f"tool_choice.name: tool '{name}' not found in provided tools"
    return None


def _check_output_config(params: dict[str, Any]) -> str | None:
    config = params.get("output_config") or {}
    if not isinstance(config, dict):
        return "output_config: Input should be a valid dictionary"
    answer_format = config.get("format")
    if answer_format is None:
        return None
    if not isinstance(answer_format, dict) or answer_format.get("type") != "json_schema":
        return "output_config.format.type: Input should be 'json_schema'"
    return _check_schema(answer_format.get("schema"), "output_config.format.schema")


def _check_cache_marks(params: dict[str, Any]) -> str | None:
    """What is wrong with the marks of the prompt cache: form, number, and 1-hour marks first."""
    marks: list[str] = []
    for where, control in _cache_marks(params):
        if not isinstance(control, dict) or control.get("type") != "ephemeral":
            return f"{where}.cache_control.type: Input should be 'ephemeral'"
        lifetime = control.get("ttl", "5m")
        if lifetime not in ("5m", "1h"):
            return f"{where}.cache_control.ttl: Input should be '5m' or '1h'"
        if lifetime == "1h" and "5m" in marks:
            return (
                f"{where}.cache_control.ttl: a ttl='1h' cache_control block must not come after a "
                "ttl='5m' cache_control block"
            )
        marks.append(lifetime)
    if len(marks) > MAX_CACHE_MARKS:
        return (
            f"A maximum of {MAX_CACHE_MARKS} blocks with cache_control may be provided. Found "
            f"{len(marks)}."
        )
    return None


def _cache_marks(params: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Where each mark stands, and the mark, in the order of the prompt."""
    parts = [("tools", params.get("tools")), ("system", params.get("system"))]
    parts += [
        (f"messages.{n}.content", turn["content"]) for n, turn in enumerate(params["messages"])
    ]
    for where, blocks in parts:
        for number, block in enumerate(blocks if isinstance(blocks, list) else ()):
            if isinstance(block, dict) and block.get("cache_control") is not None:
                yield f"{where}.{number}", block["cache_control"]
    if params.get("cache_control") is not None:
        yield "", params["cache_control"]


def _check_schema(schema: Any, where: str) -> str | None:
    if not isinstance(schema, dict):
        return f"{where}: Input should be a valid dictionary"
    problem = _schema_problem(orjson.dumps(schema))
    return None if problem is None else f"{where}: {problem}"


@lru_cache(maxsize=256)  # all requests of a job have the same schema
def _schema_problem(raw: bytes) -> str | None:
    schema = orjson.loads(raw)
    if any(not reference.startswith("#") for reference in _references(schema)):
        return "$ref may only point into the schema itself"
    try:
        validator_for(schema)
        # Writing a value finds what validation of the schema does not, such as endless recursion.
        SchemaWriter(schema, Dice(0), SourceText("trial")).write()
    except (ValidationError, ValueError, UnsatisfiableError) as error:
        return str(error)
    return None


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _check_model(params: dict[str, Any], max_tokens: int) -> ApiError | None:
    name = params.get("model")
    if not isinstance(name, str):
        return invalid_request("model: Field required")
    model = MODELS.get(name)
    if model is None:
        return ApiError(404, "not_found_error", f"model: {name}")
    if max_tokens > model.max_output:
        return invalid_request(
            f"max_tokens: {max_tokens} > {model.max_output}, which is the maximum allowed"
            f" number of output tokens for {name}"
        )
    problem = _not_supported(params, model) or _check_last_turn(params["messages"][-1], model)
    if problem is not None:
        return invalid_request(problem)
    refusal = check_documents(params, model)
    if refusal is None and (tokens := count_input(params)) > model.context_window:
        refusal = invalid_request(
            f"prompt is too long: {tokens} tokens > {model.context_window} maximum"
        )
    return refusal


def _not_supported(params: dict[str, Any], model: Model) -> str | None:
    """What the params ask for that this model in particular refuses."""
    thinking = (params.get("thinking") or {}).get("type")
    if thinking is not None and thinking not in model.thinking.split():
        return f'"thinking.type.{thinking}" is not supported for this model.'
    effort = (params.get("output_config") or {}).get("effort")
    if effort is not None and effort not in model.effort.split():
        return f"output_config.effort: {effort!r} is not supported for this model"
    if effort in ("xhigh", "max") and thinking in ("disabled", "between_tools"):
        return f"thinking: {thinking} is not supported with effort {effort!r}"
    choice = (params.get("tool_choice") or {}).get("type")
    if choice in ("any", "tool") and not model.forced_tools:
        return f"tool_choice: {choice!r} is not supported for this model"
    if choice in ("any", "tool") and thinking in ("enabled", "adaptive"):
        return "Thinking may not be enabled when tool_choice forces tool use."
    return None


def _check_last_turn(last: dict[str, Any], model: Model) -> str | None:
    """What is wrong with the last turn: newer models want the user's, or a paused answer."""
    content = last["content"]
    has_paused = isinstance(content, list) and any(
        block["type"] == "server_tool_use" for block in content
    )
    if model.prefill or has_paused or last["role"] == "user":
        return None
    return (
        "This model does not support assistant message prefill. The conversation must end with a "
        "user message."
    )
