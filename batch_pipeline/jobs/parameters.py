"""Messages parameters that cannot work in this pipeline, or cost more than they seem to.

Belongs here: the one table of parameters, the models that it is about, and what to do instead. A
parameter that the table does not know is sent as it is. What the API itself says of a model (its
retirement, limits and capabilities) is in `flow.gates.models`.

Sources: the API's documentation of batches, of thinking and of each model's migration, and the
types of the official SDK, as of November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from batch_pipeline.jobs.prompts.template import is_blank

KeyPath = tuple[str, ...]
Declared = Mapping[str, Any]
"""Parts of a declaration by key. Keys that are declared after `params` may be missing."""

LONG_OUTPUT_BETA = "output-300k-"
LONG_OUTPUT_TOKENS = 300_000
# A model that thinks needs about this much before it answers; thinking counts as output.
ROOM_TO_THINK = 1_024

THINKS_BY_DEFAULT = r"claude-(sonnet|opus|haiku|fable|mythos)-5(-\d)?"
ALWAYS_THINKS = r"claude-(opus-5-5|(fable|mythos)-5(-\d)?)"
THINKS_ON_DEMAND = r"claude-(opus|sonnet|haiku)-4-\d"

KNOWN = frozenset({
    "billing_policy", "cache_control", "compaction", "container", "context_management",
    "diagnostics", "fallback_credit_token", "fallbacks", "inference_geo", "max_tokens",
    "mcp_servers", "messages", "metadata", "model", "output_config", "output_format", "prefill",
    "service_tier", "speed", "stop_sequences", "stream", "system", "thinking", "thread",
    "tool_choice", "tools", "user_profile_id",
})  # fmt: skip
"""Every Messages parameter of the installed SDK, beta features included."""

_MISSING = object()


def _always(_declared: Declared) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """A row of the table: the key that it is about, what is wrong, for which models and when.

    The rule applies where the key is declared, as one of `values` unless they are empty. `models`
    is a regular expression of model ids without their date. `{model}` and `{value}` in `message`
    are filled in. With `warns` the declaration is accepted, and the message is a warning.
    """

    key: str
    message: str
    values: tuple[object, ...] = ()
    models: str = ".*"
    when: Callable[[Declared], bool] = _always
    warns: bool = False

    def applies(self, declared: Declared) -> bool:
        value = get(declared, self.key, _MISSING)
        if value is _MISSING or (self.values and value not in self.values):
            return False
        model = undated(str(declared.get("model_id")))
        return re.fullmatch(self.models, model) is not None and self.when(declared)

    def text(self, declared: Declared) -> str:
        names = {"model": declared.get("model_id"), "value": get(declared, self.key)}
        return re.sub(r"\{(model|value)\}", lambda found: str(names[found[1]]), self.message)


def undated(model_id: str) -> str:
    """The name of a model without the date of its version."""
    return re.sub(r"-20\d{6}$", "", model_id)


def get(declared: Declared, key: str, default: object = None) -> Any:
    """The value of a dotted key, or the default where there is none."""
    value: Any = declared
    for part in key.split("."):
        if isinstance(value, Mapping):
            value = value.get(part, default)
        else:
            value = getattr(value, part, default)
    return value


def problems(declared: Declared, under: str = "") -> Iterator[tuple[KeyPath, str]]:
    """What cannot work, by key; with `under` the rules for that key and those below it alone."""
    for rule in RULES:
        if not rule.warns and rule.key.startswith(under) and rule.applies(declared):
            yield tuple(rule.key.split(".")), rule.text(declared)


def warnings(declared: Declared) -> list[str]:
    """What works, and costs more or does other than it seems to; each begins with its key."""
    found = [f"{r.key}: {r.text(declared)}" for r in RULES if r.warns and r.applies(declared)]
    for name in declared["params"].keys() - KNOWN:
        close = get_close_matches(name, KNOWN, n=1)
        hint = f"did you mean {close[0]}? It" if close else "it"
        found.append(
            f"params.{name}: no Messages parameter that is known here; {hint} is sent as it is, "
            "and the API may refuse every request for it"
        )
    return found


def may_think(declared: Declared) -> bool:
    """Whether nothing keeps a model that thinks by default from thinking."""
    return get(declared, "params.thinking.type") not in ("disabled", "between_tools")


def _small(declared: Declared) -> bool:
    return may_think(declared) and bool(declared["max_tokens"] < ROOM_TO_THINK)


def _of_kind(declared: Declared, kind: str) -> list[Mapping[str, Any]]:
    """The tools of the API's own whose dated type begins so."""
    tools = [tool for tool in _tools(declared) if isinstance(tool, Mapping)]
    return [tool for tool in tools if str(tool.get("type")).startswith(kind)]


def _runs_code_for_money(declared: Declared) -> bool:
    # Beside the newer web tools code execution is free.
    web = [*_of_kind(declared, "web_search_2"), *_of_kind(declared, "web_fetch_2")]
    free = any(str(tool["type"])[-8:] >= "20260209" for tool in web)
    return bool(_of_kind(declared, "code_execution")) and not free


def _forces_a_tool(declared: Declared) -> bool:
    return get(declared, "params.tool_choice.type") in ("any", "tool")


def _thinks_hard(declared: Declared) -> bool:
    return get(declared, "params.output_config.effort") in ("xhigh", "max")


def _budget_out_of_range(declared: Declared) -> bool:
    budget = get(declared, "params.thinking.budget_tokens")
    if not isinstance(budget, int) or budget < ROOM_TO_THINK:
        return True
    # With tools a beta lets the budget span several turns of thinking.
    most = declared.get("max_tokens")
    return most is not None and bool(budget >= most) and not _tools(declared)


def _tools(declared: Declared) -> list[Any]:
    tools = get(declared, "params.tools")
    return tools if isinstance(tools, list) else []


def _may_call_a_tool(declared: Declared) -> bool:
    """Whether the model may call a tool that does not run at the API, and need not."""
    of_the_job = any("input_schema" in tool for tool in _tools(declared) if isinstance(tool, dict))
    return of_the_job and get(declared, "params.tool_choice.type") in (None, "auto")


def _names_no_tool(declared: Declared) -> bool:
    tools = _tools(declared)
    names = [tool.get("name") if isinstance(tool, dict) else None for tool in tools]
    # A set of tools has no name of its own.
    return (
        bool(names) and None not in names and get(declared, "params.tool_choice.name") not in names
    )


def _has_calls(declared: Declared) -> bool:
    mode: str = declared["mode"]
    pilot = declared["pilot"]
    return mode != "batch" or bool(pilot.size > 0 and pilot.via == "realtime")


def _asks_for_long_output(declared: Declared) -> bool:
    return any(beta.startswith(LONG_OUTPUT_BETA) for beta in declared["betas"])


def _same_prompt_for_all(key: str, *, bought_once: bool) -> Callable[[Declared], bool]:
    """Whether the turns that this key declares hold nothing of a row, so that an answer is bought
    once, or again for each row."""

    def applies(declared: Declared) -> bool:
        prompt = declared["prompt"]
        once: bool = declared["deduplicate"]
        return bool(getattr(prompt, key)) and not prompt.columns and once is bought_once

    return applies


def _shares_nothing(declared: Declared) -> bool:
    """Whether no part of the prompt that all requests have in common can carry a cache mark."""
    prompt = declared["prompt"]
    return is_blank(prompt.begins) and prompt.system is None and not _loaded_tools(declared)


def _has_random_examples(declared: Declared) -> bool:
    examples = declared["prompt"].examples
    return examples is not None and not examples.is_fixed


def _loaded_tools(declared: Declared) -> list[Any]:
    return [tool for tool in _tools(declared) if not get(tool, "defer_loading")]


def _has_marks(declared: Declared) -> bool:
    blocks = (*declared["prompt"].blocks, *_tools(declared))
    marked = [block for block in blocks if get(block, "cache_control")]
    return bool(marked) or get(declared, "params.cache_control") is not None


def _asks_for_a_format(declared: Declared) -> bool:
    return (
        declared["output_schema"] is not None
        or get(declared, "params.output_config.format") is not None
    )


_CACHES = ("auto", "5m", "1h")
_ASIDE = "does not belong into params; "
_NOT_IN_BATCHES = f"{_ASIDE}remove it: batches refuse it"
_SAMPLING = (
    f"{_ASIDE}remove it: the API refuses it at any value since the version that the SDK sends "
    "(2026-10-21); say in the prompt what the answers shall be like"
)
_OF_THE_SDK = (
    f"{_ASIDE}remove it: it is an argument of the SDK's methods and no parameter of a message"
)
_OF_A_CONVERSATION = (
    f"{_ASIDE}remove it: it goes on from an earlier answer, and each request is one"
)
_USER_PROFILE = "bills a customer of yours, which batches refuse; remove it, or declare it as self"
_NO_SUCH_THINKING = (
    "is {value}, which {model} refuses; remove params.thinking, or declare {type: adaptive}, and "
    "set params.output_config.effort to say how much it thinks"
)

RULES = (
    # What has a key of its own.
    Rule("params.model", f"{_ASIDE}set model_id instead"),
    Rule("params.messages", f"{_ASIDE}set prompt.user (or user_file), or prompt.messages instead"),
    Rule("params.system", f"{_ASIDE}set prompt.system or prompt.system_file instead"),
    Rule("params.max_tokens", f"{_ASIDE}set max_tokens beside params instead"),
    Rule(
        "params.betas",
        f"{_ASIDE}set betas beside params instead: they are a header of the whole batch",
    ),
    Rule("params.custom_id", f"{_ASIDE}remove it: each request gets an id that leads to its row"),
    # What batches refuse.
    *(
        Rule(f"params.{name}", _NOT_IN_BATCHES)
        for name in ("stream", "speed", "store", "fallbacks", "cache_hint", "context_hint")
    ),
    Rule("params.research_preview_2026_02", _NOT_IN_BATCHES, ("active",)),
    Rule("params.bill_to", _USER_PROFILE, ("user_profile",)),
    Rule("params.billing_policy.bill_to", _USER_PROFILE, ("user_profile",)),
    *(
        Rule(f"params.{name}", _OF_A_CONVERSATION)
        for name in ("previous_thread_event_id", "thread", "fallback_credit_token")
    ),
    Rule("params.compaction", f"{_ASIDE}remove it: the answers would be summaries without a text"),
    # What no request may hold.
    *(Rule(f"params.{name}", _SAMPLING) for name in ("temperature", "top_p", "top_k")),
    *(
        Rule(f"params.{name}", _OF_THE_SDK)
        for name in ("extra_body", "extra_headers", "extra_query", "timeout", "max_retries")
    ),
    Rule(
        "params.workspace_id",
        f"{_ASIDE}remove it: the key or the profile says which workspace is meant",
    ),
    Rule(
        "params.metadata.user_id",
        "must be text; put it into quotes",
        when=lambda d: not isinstance(get(d, "params.metadata.user_id"), str | None),
    ),
    # Thinking.
    Rule(
        "params.thinking.type",
        _NO_SUCH_THINKING,
        ("enabled",),
        models=rf"claude-opus-4-[78]|{THINKS_BY_DEFAULT}",
    ),
    Rule("params.thinking.type", _NO_SUCH_THINKING, ("disabled",), models=ALWAYS_THINKS),
    Rule(
        "params.thinking.type",
        "is disabled, which {model} refuses; declare {type: between_tools} instead",
        ("disabled",),
        models="claude-sonnet-5-5",
    ),
    Rule(
        "params.thinking.type",
        "is {value}, which {model} refuses with an effort of xhigh or max; lower "
        "params.output_config.effort, or remove params.thinking",
        ("disabled", "between_tools"),
        models="claude-(opus-5|haiku-5-5|sonnet-5-5)",
        when=_thinks_hard,
    ),
    Rule(
        "params.thinking.type",
        "is adaptive, which {model} refuses; declare {type: enabled, budget_tokens: 1024} or more",
        ("adaptive",),
        models="claude-(opus|sonnet|haiku)-4-5",
    ),
    Rule(
        "params.thinking.type",
        "is between_tools, which claude-sonnet-5-5 alone is known to accept",
        ("between_tools",),
        models=r"claude-(?!sonnet-5-5).*",
        warns=True,
    ),
    Rule(
        "params.thinking.type",
        f"is enabled without a budget_tokens from {ROOM_TO_THINK:,} to below max_tokens",
        ("enabled",),
        models=THINKS_ON_DEMAND,
        when=_budget_out_of_range,
    ),
    Rule(
        "max_tokens",
        "{model} thinks before it answers unless it is told not to, and that counts as output: "
        "with max_tokens: {value} answers may be cut off, and are billed; raise it, or set "
        "params.thinking or params.output_config.effort",
        models=THINKS_BY_DEFAULT,
        when=_small,
        warns=True,
    ),
    Rule(
        "params.output_config.effort",
        "{model} is documented without it, and may refuse every request for it; remove it",
        models="claude-(sonnet|haiku)-4-5",
        warns=True,
    ),
    # Tools.
    Rule(
        "params.tool_choice.type",
        "forces a tool ({value}), which {model} refuses; declare {type: auto} and ask for the tool "
        "in the prompt, or declare an output_schema instead",
        ("any", "tool"),
        models=r"claude-(opus-5-5|sonnet-5-5|(fable|mythos)-5-\d)",
    ),
    Rule(
        "params.tool_choice.type",
        "forces a tool ({value}), which is refused while the model thinks; remove params.thinking, "
        "or declare {type: auto}",
        ("any", "tool"),
        models=THINKS_ON_DEMAND,
        when=lambda d: get(d, "params.thinking.type") in ("enabled", "adaptive"),
    ),
    Rule(
        "params.tool_choice.type",
        "forces a tool, but params.tools has none",
        ("any", "tool"),
        when=lambda declared: not _tools(declared),
    ),
    Rule(
        "params.tool_choice.name",
        "is {value}, but params.tools has no tool of that name",
        when=lambda declared: _forces_a_tool(declared) and _names_no_tool(declared),
    ),
    # What is billed beside tokens.
    Rule(
        "params.tools",
        "has a web search without max_uses: nothing bounds how often a request searches, for $10 "
        "per 1,000, so that no ceiling and no estimate holds it before answers were measured; set "
        "max_uses",
        when=lambda d: any(tool.get("max_uses") is None for tool in _of_kind(d, "web_search")),
        warns=True,
    ),
    Rule(
        "params.tools",
        "has an advisor, which is billed at its own model's price: no ceiling and no estimate "
        "holds it before answers were measured",
        when=lambda d: bool(_of_kind(d, "advisor")),
        warns=True,
    ),
    Rule(
        "params.tools",
        "has code execution, which beyond a free allowance is billed by the hour and in no "
        "answer's usage: no sum of this project holds it",
        when=_runs_code_for_money,
        warns=True,
    ),
    Rule(
        "params.tools",
        "leaves it to the model to call a tool in place of the JSON that output_schema asks for: "
        "such an answer succeeds with the call in `details`, and `parsed` is NULL; force the tool "
        "by tool_choice, or remove it, where that is not wanted",
        when=lambda d: get(d, "output_schema") is not None and _may_call_a_tool(d),
        warns=True,
    ),
    # What depends on how requests go out, and on the prompt.
    Rule(
        "betas",
        f"{LONG_OUTPUT_BETA}… is for batches alone, and this job makes calls in real time; set "
        "mode: batch, and pilot: {via: batch} or {size: 0}",
        when=lambda declared: _asks_for_long_output(declared) and _has_calls(declared),
    ),
    Rule(
        "betas",
        "must be names of beta features, one an entry, without commas or white space",
        when=lambda d: not all(re.fullmatch(r"[!-+\--~]+", beta) for beta in d["betas"]),
    ),
    *(
        Rule(
            f"prompt.{key}",
            "has no {column} placeholder, so that no document is ever part of a request and all "
            "rows would share one answer; put {column} where a row's text belongs (deduplicate: "
            "false if one prompt is meant to be answered again for each row)",
            when=_same_prompt_for_all(key, bought_once=True),
        )
        for key in ("user", "messages")
    ),
    *(
        Rule(
            f"prompt.{key}",
            "has no {column} placeholder: the same request is bought again for each row",
            when=_same_prompt_for_all(key, bought_once=False),
            warns=True,
        )
        for key in ("user", "messages")
    ),
    Rule(
        "prompt.citations",
        "cannot be had together with output_schema, the API refuses it; remove one",
        (True,),
        when=_asks_for_a_format,
    ),
    Rule(
        "caching",
        "has nothing to cache: the prompt begins with a document, without prompt.system, tools or "
        "a text before the first {column}; move what all requests share to there, or remove it",
        _CACHES,
        when=lambda d: _shares_nothing(d) and not _has_random_examples(d),
    ),
    Rule(
        "caching",
        "has nothing to cache: examples that differ from row to row leave nothing after them to "
        "cache, and there is neither prompt.system nor a tool before them; set "
        "prompt.examples.choose: fixed, or remove it",
        _CACHES,
        when=lambda d: _shares_nothing(d) and _has_random_examples(d),
    ),
    Rule(
        "caching",
        "caches prompt.system and tools alone: examples that differ from row to row leave nothing "
        "after them to cache; set prompt.examples.choose: fixed to have them cached, too",
        _CACHES,
        when=lambda d: _has_random_examples(d) and not _shares_nothing(d),
        warns=True,
    ),
    Rule(
        "caching",
        "marks the shared prefix, and params has cache_control of its own; remove that",
        _CACHES,
        when=_has_marks,
    ),
    Rule(
        "params.cache_control",
        "marks the end of each request, which is the document: every request pays for writing a "
        "cache (a quarter more for input, twice as much with ttl: 1h) that none reads; remove it",
        when=lambda d: get(d, "params.cache_control") is not None,
        warns=True,
    ),
)  # fmt: skip
"""The table. Of several rules for one key, each that applies is told."""
