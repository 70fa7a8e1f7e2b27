"""The templates of pages that people look at in a browser, and how they write data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from batch_pipeline.safe_text import visible
from batch_pipeline.wording import clipped, percent, status_label, usd

if TYPE_CHECKING:
    from jinja2 import Environment, Template

ID_CHARACTERS = 160
MESSAGE_CHARACTERS = 600


def environment(
    filters: Mapping[str, Callable[..., Any]], finalize: Callable[[Any], Any] | None = None
) -> Environment:
    """What makes the templates of HTML pages, with these filters: values are escaped."""
    # Runs that write no page do without.
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    made = Environment(
        loader=PackageLoader("batch_pipeline.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    made.filters |= filters
    return made


@cache
def template(name: str) -> Template:
    """A template of a page that shows documents, compiled once a process."""
    filters: dict[str, Callable[..., Any]] = {
        "usd": usd,
        "count": lambda number: f"{number:,}",
        "percent": percent,
        "status_label": status_label,
        "time": _time,
        "name": lambda text: clipped(" ".join(text.split()), ID_CHARACTERS),
        "message": lambda text: clipped(text, MESSAGE_CHARACTERS),
    }
    return environment(filters, _shown).get_template(name)


def _shown(value: object) -> object:
    """A value as it is written. Texts of documents hold what a browser would obey in silence, such
    as marks that turn the direction of all that follows."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return escape(visible(value.replace("\r\n", "\n").expandtabs(4)))
    return value


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
