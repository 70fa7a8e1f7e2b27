"""`show`: everything that is known of one item of a night."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from batch_pipeline.cli import opening, request_text
from batch_pipeline.cli.options import Job, Json, Partition
from batch_pipeline.cli.tables import SIMULATED, SafeConsole
from batch_pipeline.reporting.shown_request import Text
from batch_pipeline.wording import status_label, usd

if TYPE_CHECKING:
    from batch_pipeline.flow.inspect.item import Item

_TOKENS = (
    ("input_tokens", "in"),
    ("cache_read_tokens", "read from the cache"),
    ("cache_write_5m_tokens", "written to it for 5 min"),
    ("cache_write_1h_tokens", "written to it for 1 h"),
    ("output_tokens", "out"),
)


def show(
    context: typer.Context,
    job: Job,
    item_id: Annotated[str, typer.Option("--id", help="The item's id.")],
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Show all of one item: row, request, attempts, raw answers, cost, where it waits."""
    from batch_pipeline.flow.inspect import item

    pipeline, spec, key = opening.open_night(context, job, partition)
    found = item.show(pipeline, spec, key, item_id)
    context.obj.answer(found.as_json(), lambda: _show(found))


def _show(found: Item) -> None:
    console = SafeConsole()

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    say(f"{found.job} {found.partition}, owner {found.account}: {found.id}")
    say(f"Now: {_where(found)}.")
    for note in found.notes:
        say(f"Note: {note}.")
    if found.input is not None:
        route = f", route {found.route}" if found.route else ""
        say(f"\n=== Row ({found.source}:{found.row}{route})\n{_json(found.input)}")
    if found.request is not None:
        say(f"\n=== Request (fingerprint {found.fingerprint})\n{request_text.of(found.request)}")
    for number, attempt in enumerate(found.attempts, 1):
        say(f"\n=== Answer {number} of {len(found.attempts)}: {_head(attempt)}")
        say(_answer(attempt))
    if found.result is not None:
        say(f"\n=== Result: {_result(found.result)}")
    if found.dead_letter is not None:
        letter = found.dead_letter
        why = ": ".join(filter(None, (letter["error_type"], letter["error_message"])))
        say(f"=== Dead letter: {status_label(letter['reason'])}, {why}")
    say(f"\nBilled for its answers: {usd(found.cost_usd)}.")
    if found.simulated:
        console.print(SIMULATED)


def _answer(attempt: Mapping[str, Any]) -> str:
    parts = [_facts(attempt)]
    if attempt["content"]:
        parts.append(request_text.text(Text.of(attempt["content"], request_text.MOST_CHARACTERS)))
    if attempt["details"]:
        parts.append(f"[details]\n{_json(orjson.loads(attempt['details']))}")
    raw = attempt["raw"]
    parts.append(f"[as the API sent it]\n{_json(raw)}" if raw else f"[raw: {attempt['raw_note']}]")
    return "\n".join(parts)


def _where(found: Item) -> str:
    if found.waits is not None:
        return found.waits
    if found.result is not None:
        return f"settled, {status_label(found.result['status'])}"
    return f"not sent, {found.why_not_sent}"


def _head(attempt: Mapping[str, Any]) -> str:
    parts = [status_label(attempt["status"]), attempt["asked"]]
    if attempt["batch_id"]:
        parts.append(attempt["batch_id"])
    if attempt["redriven"]:
        parts.append("redriven since")
    return ", ".join(filter(None, parts))


def _facts(attempt: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{attempt[key]:,} {name}" for key, name in _TOKENS if attempt[key])
    at = attempt["collected_at"]
    when = f"{at:%Y-%m-%d %H:%M} UTC" if isinstance(at, datetime) else ""
    stopped = f"stopped by {attempt['stop_reason']}" if attempt["stop_reason"] else ""
    error = ": ".join(filter(None, (attempt["error_type"], attempt["error_message"])))
    tokens = f"tokens: {counts}" if counts else "no tokens"
    return "; ".join(filter(None, (error, stopped, tokens, usd(attempt["cost_usd"]), when)))


def _result(row: Mapping[str, Any]) -> str:
    parts = [status_label(row["status"]), f"attempt {row['attempt']}"]
    if row["answered_by"]:
        parts.append(f"answered by {row['answered_by']}")
    error = ": ".join(filter(None, (row["error_type"], row["error_message"])))
    text = ", ".join(filter(None, (*parts, error)))
    if row["parsed"]:
        return f"{text}\n{_json(orjson.loads(row['parsed']))}"
    return text


def _json(value: Any) -> str:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    shown = Text.of(text, 2 * request_text.MOST_CHARACTERS)
    cut = f"\n… ({shown.characters:,} characters in all; --json has them)" if shown.cut else ""
    return textwrap.indent(shown.shown + cut, "  ", lambda _: True)
