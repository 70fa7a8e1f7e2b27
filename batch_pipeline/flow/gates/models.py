"""What a job asks of its models, judged before anything is sent.

Without an API the dates of retirement of `api.models` count, and the table of `jobs.parameters`.
With one, what it says of the model comes first: whether it is offered, until when, its limits, and
which parameters it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from difflib import get_close_matches

from batch_pipeline.api.protocol import Api, ApiFailure, ModelInfo
from batch_pipeline.errors import UsageError
from batch_pipeline.flow.gates import prompt_warnings
from batch_pipeline.jobs import parameters
from batch_pipeline.jobs.parameters import LONG_OUTPUT_BETA, LONG_OUTPUT_TOKENS, get
from batch_pipeline.jobs.spec import JobSpec

SERVER_TOOLS = ("web_search", "code_execution")


@dataclass
class Verdict:
    """What stops a job's requests, what a person should know, and why the API was not asked."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unasked: str | None = None


def notices(spec: JobSpec, api: Api | None) -> list[str]:
    """Everything to be said of a job's model and parameters; stops nothing."""
    verdict = judge(spec, api)
    return [*verdict.problems, *verdict.warnings]


def check(spec: JobSpec, api: Api | None = None) -> Verdict:
    """The verdict on a job whose requests can work; raises UsageError where they cannot."""
    verdict = judge(spec, api)
    if verdict.problems:
        found = "\n".join(
            f"{spec.name}, {problem}; nothing was sent." for problem in verdict.problems
        )
        raise UsageError(found)
    return verdict


def judge(spec: JobSpec, api: Api | None) -> Verdict:
    """The verdict on a job, with what the API says of its models if there is an API to ask."""
    whole = Verdict()
    for path, asked in spec.asked_all_ways():
        under = "".join(f"{key}." for key in path)
        verdict, most = _judge(asked, api)
        room = spec.retry.truncated_max_tokens
        # The stronger model is asked last, and never with more room.
        if room is not None and room > asked.max_tokens and "retry" not in path:
            found = _over("retry.truncated_max_tokens", room, asked.model_id, most)
            whole.problems += [each for each in found if each not in whole.problems]
        whole.problems += [f"{under}{problem}" for problem in verdict.problems]
        # What a route has of the job itself is said once.
        new = (warning for warning in verdict.warnings if warning not in whole.warnings)
        whole.warnings += [f"{under}{warning}" for warning in new]
        whole.unasked = whole.unasked or verdict.unasked
    whole.warnings += prompt_warnings.of(spec)
    return whole


def _judge(spec: JobSpec, api: Api | None) -> tuple[Verdict, int | None]:
    """The verdict on one of the ways in which a job asks, and the most that its model writes, in
    tokens; None: not known."""
    verdict = Verdict(warnings=parameters.warnings(spec.declared()))
    said = None
    if api is not None:
        try:
            said = _ask(api, spec.model_id, verdict)
        except ApiFailure as failure:
            verdict.unasked = f"the API could not be asked about {spec.model_id} ({failure})"
    if said is None:
        _by_date(spec.model_id, _retires(spec), verdict)
        return verdict, None
    most = _most_tokens(spec, said)
    _by_lifecycle(spec.model_id, said, verdict)
    verdict.problems.extend(_over("max_tokens", spec.max_tokens, spec.model_id, most))
    verdict.problems.extend(_refused(spec, said))
    return verdict, most


def _ask(api: Api, model_id: str, verdict: Verdict) -> ModelInfo | None:
    offered = api.models()
    # An alias is not in the list.
    said = offered.get(model_id) or api.model(model_id)
    if said is None and offered:
        close = get_close_matches(model_id, offered, n=3) or sorted(offered)[:10]
        verdict.problems.append(
            f"model_id: the API offers no {model_id} to this key; it offers {', '.join(close)}"
        )
    return said


def _by_date(model_id: str, retires: date | None, verdict: Verdict) -> None:
    found = describe(model_id, retires, _today())
    if found is None or retires is None:
        return
    if _today() > retires:
        verdict.problems.append(
            f"model_id: {found}; choose a model that is offered today, or update the anthropic "
            "package if the date has been put off"
        )
    else:
        verdict.warnings.append(found)


def _by_lifecycle(model_id: str, said: ModelInfo, verdict: Verdict) -> None:
    if said.lifecycle == "retired":
        on = f" on {said.retires}" if said.retires else ""
        verdict.problems.append(
            f"model_id: {model_id} was retired{on}; choose a model that is offered today"
        )
    elif said.retires is not None and _today() > said.retires:
        verdict.warnings.append(
            f"{model_id} was to retire on {said.retires} and is still offered; it may be refused "
            "any day: choose another model_id"
        )
    elif (found := describe(model_id, said.retires, _today())) is not None:
        verdict.warnings.append(found)
    elif said.lifecycle == "deprecated":
        verdict.warnings.append(
            f"{model_id} is deprecated and will retire; choose another model_id before then"
        )


def _most_tokens(spec: JobSpec, said: ModelInfo) -> int | None:
    most = said.max_tokens
    if most is not None and any(beta.startswith(LONG_OUTPUT_BETA) for beta in spec.betas):
        return max(most, LONG_OUTPUT_TOKENS)
    return most


def _over(key: str, asked: int, model: str, most: int | None) -> list[str]:
    if most is None or asked <= most:
        return []
    return [f"{key}: {asked:,} is more than {model} writes; it is at most {most:,}"]


def _refused(spec: JobSpec, said: ModelInfo) -> Iterator[str]:
    """Parts of a declaration that need a capability which the model does not have."""
    declared = spec.declared()
    needs: list[tuple[str, str, str]] = []
    if spec.mode != "realtime":
        needs.append(("mode", "batches", "batch"))
    if spec.output_schema is not None:
        needs.append(("output_schema", "structured output", "structured_outputs"))
    for key, capability in (
        ("params.output_config.format", "structured_outputs"),
        ("params.context_management", "context_management"),
        ("params.output_config.effort", "effort"),
        ("params.output_config.effort", "effort.{}"),
        ("params.thinking.type", "thinking.types.{}"),
    ):
        value = get(declared, key)
        if value is not None:
            what = value if isinstance(value, str) else capability.replace("_", " ")
            needs.append((key, what, capability.format(value)))
    for tool in get(declared, "params.tools") or ():
        kind = str(get(tool, "type"))
        needs += [
            ("params.tools", kind, f"server_tools.{name}")
            for name in SERVER_TOOLS
            if kind.startswith(name)
        ]
    for key, what, capability in dict.fromkeys(needs):
        if said.supports(capability) is False:
            yield f"{key}: {spec.model_id} does not support {what}, as the API says of it"


def _retires(spec: JobSpec) -> date | None:
    from batch_pipeline.api.models import retirement_date  # noqa: PLC0415  # the SDK is heavy

    return retirement_date(spec.model_id)


def _today() -> date:
    return datetime.now(UTC).date()


def describe(model_id: str, retires: date | None, today: date) -> str | None:
    """What to say on a day about a model with this date of retirement; None: nothing."""
    if retires is None:
        return None
    if today > retires:
        return f"{model_id} was retired on {retires}"
    days = (retires - today).days
    when = "today" if not days else "tomorrow" if days == 1 else f"in {days} days"
    return f"{model_id} retires on {retires} ({when}); choose another model_id before then"
