"""OpenTelemetry spans of the steps of a night, where the SDK of OpenTelemetry is there and wanted.

Calls of the API have spans here too: the Anthropic SDK makes its own for the methods of its
resources alone, which are not what is called. A span has names of declarations, ids of batches and
counts; never an id or a text of a document. Without the variables of OpenTelemetry nothing of it is
imported.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from batch_pipeline.safe_text import get_logger, one_line

log = get_logger(__name__)

SERVICE = "batch-pipeline"
EXPORTER = "OTEL_TRACES_EXPORTER"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
GROUP = "opentelemetry_traces_exporter"
# Names of entry points by protocol; the second is the older name of the first.
OTLP = {
    "grpc": ("otlp_proto_grpc", "otlp"),
    "http/protobuf": ("otlp_proto_http",),
}
Value = str | int | float | bool
P = ParamSpec("P")
Result = TypeVar("Result")


class _State:
    """Whether `configure` was called, and whether spans are made."""

    configured = False


def configure() -> None:
    """Set OpenTelemetry up by its own variables, once a process, unless the program has done so.

    Spans are exported if `OTEL_TRACES_EXPORTER` names an exporter or an OTLP endpoint is set, and
    the SDK is installed. What is wrong is logged, and the work goes on without spans.
    """
    if _State.configured:
        return
    _State.configured = True
    wanted = _wanted(os.environ)
    if not wanted:
        return
    try:
        from opentelemetry import trace  # noqa: PLC0415  # only where it is wanted
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning(
            "no traces: %s needs the SDK of OpenTelemetry; install batch-pipeline[otel]",
            " and ".join(name for name in (EXPORTER, *ENDPOINTS) if os.environ.get(name)),
        )
        return
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    try:
        exporters = [_exporter(names) for names in wanted]
    except Exception as error:  # noqa: BLE001  # an exporter must not stop a night
        log.warning("no traces: %s", error)
        return
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": SERVICE}
    provider = TracerProvider(resource=Resource.create(named))
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def _wanted(environ: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The exporters that the environment asks for: of each the names under which it may be found;
    empty without a wish."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    asked = environ.get(EXPORTER, "").strip()
    if not asked:
        asked = "otlp" if any(environ.get(name, "").strip() for name in ENDPOINTS) else "none"
    names = [name.strip() for name in asked.split(",") if name.strip() not in ("", "none")]
    protocol = next((environ[name].strip() for name in PROTOCOLS if environ.get(name)), None)
    otlp = OTLP.get(protocol, (f"otlp ({protocol})",)) if protocol else sum(OTLP.values(), ())
    return [otlp if name == "otlp" else (name,) for name in names]


def _exporter(names: tuple[str, ...]) -> Any:
    """A new exporter, of the first of these entry points that is installed."""
    from importlib.metadata import entry_points  # noqa: PLC0415

    for name in names:
        for found in entry_points(group=GROUP, name=name):
            return found.load()()
    raise LookupError(
        f"no exporter of OpenTelemetry is installed for {names[0]!r}: see {EXPORTER}, and install "
        "batch-pipeline[otel]"
    )


@contextmanager
def span(name: str, **attributes: Value | None) -> Iterator[None]:
    """A span `batch_pipeline.<name>` around a block; nothing, unless traces are collected.

    `note` adds to it. An error that leaves the block is recorded by its type and message, made
    safe to show; its trace is not, since it may quote what was sent.
    """
    tracer = _tracer()
    if tracer is None:
        yield
        return
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    with tracer.start_as_current_span(
        f"batch_pipeline.{name}",
        attributes=_named(attributes),
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except Exception as error:
            current.set_status(Status(StatusCode.ERROR, one_line(str(error))))
            current.set_attribute("error.type", type(error).__qualname__)
            raise


def traced(name: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """A decorator: a span around each call of a function of the flow, which says what the arguments
    `spec`, `night`, `partition`, `account`, `intent` and `submission` tell."""

    def wrap(function: Callable[P, Result]) -> Callable[P, Result]:
        parameters = tuple(inspect.signature(function).parameters)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            if _tracer() is None:
                return function(*args, **kwargs)
            given = {**dict(zip(parameters, args, strict=False)), **kwargs}
            with span(name, **_told_by(given)):
                return function(*args, **kwargs)

        return call

    return wrap


def _told_by(given: Mapping[str, Any]) -> dict[str, Value | None]:
    night, spec = given.get("night"), given.get("spec")
    submission = given.get("submission") or getattr(given.get("intent"), "submission", None)
    return {
        "job": getattr(night, "job", None) or getattr(spec, "name", None),
        "partition": getattr(night, "partition", None) or given.get("partition"),
        "account": given.get("account") or getattr(submission, "account", None),
        "batch_id": given.get("batch_id") or getattr(submission, "batch_id", None),
        "requests": getattr(submission, "requests", None),
    }


def note(**attributes: Value | None) -> None:
    """Add what has become known to the span that is under way, if there is one."""
    if _tracer() is not None:
        from opentelemetry import trace  # noqa: PLC0415

        trace.get_current_span().set_attributes(_named(attributes))


def ids() -> dict[str, str]:
    """`trace_id` and `span_id` of the span that is under way; empty without one."""
    if _tracer() is None:
        return {}
    from opentelemetry import trace  # noqa: PLC0415

    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(found.trace_id),
        "span_id": trace.format_span_id(found.span_id),
    }


def _named(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    return {f"batch_pipeline.{key}": v for key, v in attributes.items() if v is not None}


def _tracer() -> Any:
    """A tracer, where a provider of the SDK is set up: by `configure` or by the program."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace  # noqa: PLC0415

    return trace.get_tracer("batch_pipeline")
