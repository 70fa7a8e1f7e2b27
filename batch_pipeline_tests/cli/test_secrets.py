"""Recognizable secrets in each place that may hold one: nothing that is written has them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline_tests.cli.program import KEY, Program, documents

SECRET = "pl4nted-s3cret"
NOBODY = "127.0.0.1:9"


class Repeats(BaseHTTPRequestHandler):
    """Refuses each call with all headers and the address in its message, as some gateways do."""

    def do_GET(self) -> None:
        told = " ".join([self.path, *map(": ".join, self.headers.items())])
        told = told.replace("\\", "").replace('"', "")
        body = f'{{"type":"error","error":{{"type":"authentication_error","message":"{told}"}}}}'
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET  # noqa: N815  # http.server's names

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def repeating() -> Iterator[str]:
    """The address of a gateway that repeats each call in its refusal."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Repeats) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def written(folder: Path) -> str:
    """All that files under a folder hold, but for the declarations of jobs."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "defs.yaml")
    return "".join(f"{path} {path.read_bytes()!r}\n" for path in files)


@pytest.mark.parametrize(
    ("name", "end"), [("ANTHROPIC_API_KEY", "\r\n"), ("ANTHROPIC_AUTH_TOKEN", "\t \n")]
)
def test_what_surrounds_a_key_is_cut_off(program: Program, name: str, end: str) -> None:
    job = program.declare("a_job", documents(3), mode="realtime")
    ended = program("run", job, "--json", **{"ANTHROPIC_API_KEY": None, name: f" {KEY}{end}"})
    assert ended.code == 0
    assert ended.document["succeeded"] == 3


UNSENDABLE = [
    *(("API_KEY", inside) for inside in ("\n", "\r", "ä", "\x9b")),
    *((name, "\r") for name in ("AUTH_TOKEN", "ADMIN_KEY", "BASE_URL", "CUSTOM_HEADERS")),
]


@pytest.mark.parametrize(("name", "inside"), UNSENDABLE)
def test_what_cannot_be_sent_is_refused_by_its_variable(
    program: Program, name: str, inside: str
) -> None:
    job = program.declare("a_job", documents(1))
    value = f"{'X-Key: ' if name == 'CUSTOM_HEADERS' else ''}{SECRET}{inside}{SECRET}"
    command = ["reconcile-costs"] if name == "ADMIN_KEY" else ["run", job]
    no_key = {"ANTHROPIC_API_KEY": None} if name == "AUTH_TOKEN" else {}
    ended = program(*command, "--json", **no_key, **{f"ANTHROPIC_{name}": value})
    assert (ended.code, ended.error["code"]) == (2, "usage")
    assert f"ANTHROPIC_{name}" in ended.error["message"]
    assert SECRET not in ended.out + ended.err


def places(repeating: str) -> dict[str, dict[str, str]]:
    """Environments with a secret in one place, each of which makes commands fail."""
    api = {"ANTHROPIC_BASE_URL": f"http://{repeating}"}
    ledger = {"BATCH_PIPELINE_LEDGER_URL": "sqlite:////dev/null/ledger.sqlite"}
    return {
        "key": {**api, "ANTHROPIC_API_KEY": f"{SECRET}\n"},
        "token": {**api, "ANTHROPIC_API_KEY": "", "ANTHROPIC_AUTH_TOKEN": SECRET},
        "headers": {**api, "ANTHROPIC_CUSTOM_HEADERS": f"X-Gateway: Bearer {SECRET}"},
        "admin key": {**api, "ANTHROPIC_ADMIN_KEY": f"{SECRET}\r\n"},
        "base URL": {"ANTHROPIC_BASE_URL": f"http://user:{SECRET}@{repeating}/?token={SECRET}"},
        "dead base URL": {"ANTHROPIC_BASE_URL": f"http://user:{SECRET}@{NOBODY}"},
        "odd base URL": {"ANTHROPIC_BASE_URL": f"ftp//user:{SECRET}@{NOBODY}"},
        "home": {**ledger, "BATCH_PIPELINE_HOME": f"ftp://user:{SECRET}@{NOBODY}/home"},
        "odd home": {
            **ledger,
            "BATCH_PIPELINE_HOME": f"noway://user:{SECRET}@{NOBODY}/?a={SECRET}",
        },
        "home of no ledger": {"BATCH_PIPELINE_HOME": f"ftp://user:{SECRET}@{NOBODY}/home"},
        "ledger": {"BATCH_PIPELINE_LEDGER_URL": f"postgresql://user:{SECRET}@{NOBODY}/db"},
        "odd ledger": {"BATCH_PIPELINE_LEDGER_URL": f"postgresql//user:{SECRET}@{NOBODY}/db"},
        "driver": {"BATCH_PIPELINE_LEDGER_URL": f"oracle://u:{SECRET}@h/db?password={SECRET}"},
        "alerts": {
            **api,
            "BATCH_PIPELINE_ALERT_URLS": f"json://u:{SECRET}@{NOBODY}, odd:/{SECRET}",
        },
        "input": {"FTP_URL": f"ftp://user:{SECRET}@{NOBODY}"},
        "input over HTTP": {"FTP_URL": f"http://user:{SECRET}@{NOBODY}/a.jsonl?sig={SECRET}&x="},
        "unknown input": {"FTP_URL": f"noway://user:{SECRET}@{NOBODY}"},
    }


@pytest.mark.parametrize("place", list(places("")))
def test_no_secret_is_written_whatever_fails(program: Program, repeating: str, place: str) -> None:
    environ = places(repeating)[place]
    path = "${FTP_URL}/documents.jsonl" if "input" in place else None
    job = program.declare(
        "a_job", documents(3), **({} if path is None else {"input": {"path": path}})
    )
    said, codes = "", []
    for command in (["run", job, "--no-wait"], ["validate", job], ["status"], ["reconcile-costs"]):
        # The message is on stderr too, for people.
        ended = program(*command, "--json", **environ)
        said += ended.out + ended.err
        codes.append(ended.code)
    assert any(codes)
    assert SECRET not in said
    assert SECRET not in written(program.folder)


def test_a_log_of_a_process_has_no_secret(program: Program, repeating: str) -> None:
    """What libraries log and traces say is on stderr of a process alone."""
    job = program.declare("a_job", documents(3), input={"path": "${FTP_URL}/a.jsonl"})
    environ = {"ANTHROPIC_LOG": "debug", "FTP_URL": f"ftp://user:{SECRET}@{NOBODY}"}
    ended = program.process("run", job, ANTHROPIC_API_KEY=f"{SECRET}-key\n", **environ)
    assert ended.code == 1
    assert SECRET not in ended.out + ended.err


def test_new_files_are_closed_to_other_users(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    former = os.umask(0)
    try:
        job = program.declare("a_job", documents(5), pilot={"size": 1})
        ended = program("run", job)
    finally:
        os.umask(former)
    assert ended.code == 0
    assert "have access" not in caplog.text
    made = [program.home, *program.home.rglob("*")]
    assert any(path.suffix == ".zst" for path in made)
    assert [str(path) for path in made if path.stat().st_mode & 0o077] == []


def test_the_mode_of_a_home_that_exists_stays(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    program.home.mkdir()
    program.home.chmod(0o755)
    job = program.declare("a_job", documents(3))
    ended = program("run", job)
    assert (ended.code, program.home.stat().st_mode & 0o777) == (0, 0o755)
    assert caplog.text.count("have access to the home") == 1
    assert [str(path) for path in program.home.rglob("*") if path.stat().st_mode & 0o077] == []
