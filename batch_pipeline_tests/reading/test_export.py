"""Exported files: row for row what was read, and without formulas."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import openpyxl
import pyarrow.parquet as pq
import pytest

from batch_pipeline.reading import export as exporting
from batch_pipeline.reading.datasets import Found, find
from batch_pipeline.reading.export import export
from batch_pipeline.storage.files import Files
from batch_pipeline_tests.reading.test_frames import home

__all__ = ["home"]

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1"]


@pytest.fixture
def found(home: str) -> Found:
    """A night with results of every kind."""
    return find(Files(home), "review", "2026-01-01")


def exported(found: Found, kind: Any, **how: Any) -> bytes:
    target = io.BytesIO()
    export(found, kind, target, **how)
    return target.getvalue()


def test_json_lines_hold_json_and_exact_amounts(found: Found) -> None:
    lines = exported(found, "jsonl", statuses=["succeeded"]).splitlines()
    rows = [json.loads(line, parse_float=Decimal) for line in lines]
    assert [row["id"] for row in rows] == ["2026-01-01 1", "2026-01-01 2"]
    assert rows[0]["parsed"] == {"total": Decimal("1.10")}
    assert b'"cost_usd":0.000000000002' in lines[0]
    assert rows[0]["collected_at"] == "2026-01-04T00:00:00Z"
    assert rows[0]["partition"] == "2026-01-01"


def test_columns_are_those_that_are_asked_for(found: Found) -> None:
    text = exported(found, "csv", columns=["status", "id"], statuses=["refused"]).decode()
    assert text == "status,id\r\nrefused,2026-01-01 0\r\n"


def test_parquet_keeps_the_types(found: Found) -> None:
    table = pq.read_table(io.BytesIO(exported(found, "parquet")))
    assert table.schema.equals(found.schema)
    assert table.equals(found.reader().read_all())


@pytest.mark.parametrize("text", FORMULAS)
def test_csv_has_no_formulas(text: str) -> None:
    assert exporting._csv_cell(text) == f"'{text}"
    assert exporting._csv_cell(Decimal("-0.100000000000")) == "-0.1"


def test_a_spreadsheet_has_texts_and_numbers_and_no_formulas(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two rows and a header fit on a sheet.
    monkeypatch.setattr(exporting, "SHEET_ROWS", 3)
    columns = ["id", "content", "input_tokens", "cost_usd", "simulated"]
    data = exported(found, "xlsx", columns=columns)
    book = openpyxl.load_workbook(io.BytesIO(data))
    rows = [list(sheet.iter_rows()) for sheet in book]
    assert [len(sheet) for sheet in rows] == [3, 2]
    assert [cell.value for cell in rows[1][0]] == columns
    shown = [(cell.value, cell.data_type) for cell in rows[0][1]]
    assert shown == [
        ("2026-01-01 0", "s"), ("=1+1", "s"), (7, "n"), (1e-12, "n"), (True, "b"),
    ]  # fmt: skip
