"""Which exporters the variables of OpenTelemetry ask for."""

from __future__ import annotations

import pytest

from batch_pipeline import telemetry


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "console"}, [("console",)]),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"},
            [("otlp_proto_grpc", "otlp", "otlp_proto_http")],
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            [("otlp_proto_http",)],
        ),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_exporters_follow_from_the_environment(
    environ: dict[str, str], wanted: list[tuple[str, ...]]
) -> None:
    assert telemetry._wanted(environ) == wanted
