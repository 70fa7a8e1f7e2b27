"""`simulator` and `demo`: the commands that a person starts with."""

from __future__ import annotations

import os
import re
import signal
import socket
import urllib.request
from pathlib import Path

import pypdfium2 as pdfium
import pytest

from batch_pipeline.cli import output
from batch_pipeline.cli.demo.demo_pdfs import PDFS, make_pdfs
from batch_pipeline.settings import PACKAGED_JOBS
from batch_pipeline_tests.cli.program import PROGRAM, Program, documents, finished


def test_the_simulator_says_where_it_listens_and_ends_cleanly(offline: Program) -> None:
    with offline.start("simulator", "--port", "0", "--turnaround", "0") as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        match = re.fullmatch(r"Simulator listens on (http://127\.0\.0\.1:\d+)\n", said)
        assert match, said
        # It is up by the time it says so.
        request = urllib.request.Request(
            f"{match[1]}/v1/messages/batches",
            headers={"x-api-key": "any", "anthropic-version": "2023-06-01"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 200
        job = offline.declare("review", documents(5))
        keyed = {"ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": match[1]}
        assert offline("run", job, **keyed).code == 0

        taken = offline("simulator", "--port", match[1].rpartition(":")[2])
        assert taken.code == 2
        assert "--port 0" in taken.err

        process.send_signal(signal.SIGTERM)
        ended = finished(process)
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_each_port_of_a_simulator_has_a_state_folder(offline: Program) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder = offline.folder / "state" / "batch-pipeline" / "simulator" / port
    with offline.start("simulator", "--port", port) as process:
        assert process.stdout is not None
        assert process.stdout.readline().rstrip().endswith(f":{port}")
        assert (folder / "simulator.sqlite").exists()
        second = offline("simulator", "--port", "0", "--state-dir", str(folder))
        assert second.code == 2
        assert str(folder) in second.err
        assert "--state-dir" in second.err
        process.send_signal(signal.SIGINT)
        ended = finished(process)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert list(folder.parent.iterdir()) == [folder]


def test_the_demo_can_stop_after_the_input(offline: Program) -> None:
    ended = offline("demo", "--input-only")
    assert ended.code == 0, ended.err
    folders = sorted((offline.home / "demo_input").iterdir())
    assert len(folders) == 3
    for folder in folders:
        assert list(folder.glob("*.parquet"))
        assert folder.name in ended.err
    assert len(list((offline.home / "demo_pdfs").glob("*.pdf"))) == PDFS
    assert not (offline.home / "ledger.sqlite").exists()


def test_the_demos_pdfs_are_asked_about(program: Program) -> None:
    assert make_pdfs(program.home / "demo_pdfs", most=8) == 8
    pages = 0
    for file in (program.home / "demo_pdfs").iterdir():
        with pdfium.PdfDocument(file) as document:
            pages += len(document)
    ended = program("run", "licence_pdfs", "--json", BATCH_PIPELINE_JOBS_DIR=str(PACKAGED_JOBS))
    assert ended.code == 0, ended.err
    night = ended.document
    assert (night["items"], night["succeeded"], night["dead_letter"]) == (8, 8, 0)
    assert 1_600 * pages < night["input_tokens"] < 3_000 * pages


def test_the_program_is_called_as_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside a virtual environment that is active, the bare name finds nothing."""
    folder = Path(PROGRAM).parent
    monkeypatch.setattr("sys.argv", [PROGRAM, "jobs"])
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), "/usr/bin"]))
    monkeypatch.chdir(folder.parent)
    assert output.as_typed() == f"{folder.name}/batch-pipeline"
    monkeypatch.chdir(tmp_path)
    assert output.as_typed() == PROGRAM
    monkeypatch.setenv("PATH", str(folder))
    assert output.as_typed() == "batch-pipeline"


def test_an_error_names_the_program_as_it_was_typed(
    offline: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = offline.declare("review", documents(1))
    monkeypatch.setattr("sys.argv", [PROGRAM, "run", job])
    monkeypatch.chdir(offline.folder)
    ended = offline("run", job, PATH="/usr/bin")
    assert f"run `{PROGRAM} demo`" in ended.err
