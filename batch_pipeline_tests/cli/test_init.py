"""`init` writes a job that `validate` accepts as it is written; and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline.jobs.yaml_files.loading import load_job
from batch_pipeline_tests.cli.program import Program
from batch_pipeline_tests.document_files import pdf, png
from batch_pipeline_tests.support import write_rows

ROWS = [
    {
        "ticket": f"T{number}",
        "author": "ann",
        "body: text": f"Ticket {number} is about invoices and what is late with them.",
        "größe": number / 2,
    }
    for number in range(30)
]


def as_jsonl(folder: Path) -> Path:
    write_rows(folder / "tickets.jsonl", ROWS)
    return folder / "tickets.jsonl"


def as_json(folder: Path) -> Path:
    (folder / "tickets.json").write_text(json.dumps(ROWS), encoding="utf-8")
    return folder / "tickets.json"


def as_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "tickets.parquet")
    return folder / "tickets.parquet"


def as_csv(folder: Path) -> Path:
    """As spreadsheets write it in much of Europe."""
    with (folder / "tickets.csv").open("w", encoding="cp1252", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(ROWS)
    return folder / "tickets.csv"


@pytest.mark.parametrize("kind", [as_jsonl, as_json, as_parquet, as_csv])
def test_a_job_is_guessed_from_a_file(offline: Program, tmp_path: Path, kind: object) -> None:
    assert callable(kind)
    source = kind(tmp_path)
    jobs = tmp_path / "jobs"
    made = offline("init", "tickets", "--from", str(source), "--dir", str(jobs), "--json")
    assert made.code == 0, made.err
    guessed = made.document["guessed"]
    assert (guessed["id_column"], guessed["text_column"]) == ("ticket", "body: text")
    assert (guessed["rows"], guessed["empty_texts"]) == (30, 0)

    file = jobs / "tickets" / "defs.yaml"
    assert load_job(file).output_schema is not None
    suggested = file.read_text(encoding="utf-8").replace("# output:", "output:")
    file.write_text(suggested, encoding="utf-8")
    assert load_job(file).output.carry == ("author", "größe")
    checked = offline("validate", "tickets", "--json", BATCH_PIPELINE_JOBS_DIR=str(jobs))
    assert checked.code == 0, checked.err
    assert (checked.document["items"], checked.document["invalid_input"]) == (30, 0)

    again = offline("init", "tickets", "--dir", str(jobs), "--json")
    assert (again.code, again.error["code"]) == (2, "usage")
    assert "is not empty" in again.error["message"]


def test_a_job_is_guessed_from_a_folder_of_texts(offline: Program, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.md").write_text(f"This is number {name}.", encoding="utf-8")
    jobs = tmp_path / "jobs"
    made = offline("init", "notes", "--from", f"{tmp_path}/*.md", "--dir", str(jobs), "--json")
    assert (
        made.document["guessed"] | {"id_column": "id", "text_column": "text", "rows": 2}
        == (made.document["guessed"])
    )
    checked = offline("validate", "notes", "--json", BATCH_PIPELINE_JOBS_DIR=str(jobs))
    assert (checked.code, checked.document["items"]) == (0, 2)


def test_a_job_is_guessed_from_a_folder_of_documents(offline: Program, tmp_path: Path) -> None:
    (tmp_path / "one.pdf").write_bytes(pdf(["Notice is three months."]))
    (tmp_path / "two.png").write_bytes(png(300, 200))
    jobs = tmp_path / "jobs"
    made = offline("init", "scans", "--from", f"{tmp_path}/*.p*", "--dir", str(jobs), "--json")
    assert made.document["guessed"]["text_column"] == "document"
    assert "{document}" in (jobs / "scans" / "user.md").read_text()
    assert "bytes on average" in (jobs / "scans" / "defs.yaml").read_text()
    checked = offline("validate", "scans", "--json", BATCH_PIPELINE_JOBS_DIR=str(jobs))
    assert (checked.code, checked.document["items"]) == (0, 2)


def test_without_a_file_the_job_has_documents_of_its_own(offline: Program, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    shown = offline("init", "first", "--dir", str(jobs))
    assert "validate first" in shown.out
    checked = offline("validate", "first", "--json", BATCH_PIPELINE_JOBS_DIR=str(jobs))
    assert (checked.code, checked.document["items"]) == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["Tickets"], "cannot be a job's name"),
        (["tickets", "--from", "no.jsonl"], "no.jsonl to guess a job from"),
        (["tickets", "--from", "{partition}.jsonl"], "name one existing file"),
        (["tickets", "--from", "FILE", "--id-column", "author"], "repeated values"),
        (["tickets", "--from", "FILE", "--id-column", "nope"], "its columns are ticket"),
    ],
)
def test_what_cannot_become_a_job_is_refused(
    offline: Program, tmp_path: Path, arguments: list[str], told: str
) -> None:
    source = str(as_jsonl(tmp_path))
    named = [source if argument == "FILE" else argument for argument in arguments]
    refused = offline("init", *named, "--dir", str(tmp_path / "new_jobs"), "--json")
    assert refused.code != 0
    assert told in refused.error["message"]
    assert not (tmp_path / "new_jobs").exists()


def test_the_version_is_shown(offline: Program) -> None:
    shown = offline("--version")
    assert shown.code == 0
    assert shown.out.startswith("batch-pipeline ")
