"""The program as its user calls it: with an environment of its own, in a process or in this one.

A process is the real thing, and a second of start each; where it adds nothing, `main` is called.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from batch_pipeline.cli import main

PROGRAM = str(Path(sys.executable).with_name("batch-pipeline"))
MODEL = "claude-haiku-4-5-20251001"
KEY = "sk-ant-a-secret-of-the-tests"
# Long enough for a busy machine; a command that hangs must not hang the tests.
SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; anything else there is a failure."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        """The document's error."""
        error: dict[str, str] = self.document["error"]
        assert set(error) == {"code", "message"}
        return error


@dataclass(frozen=True)
class Program:
    """Calls of the program by one user: home, jobs folder, key and API stay the same."""

    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def jobs_dir(self) -> Path:
        return self.folder / "jobs"

    def environment(self, **changes: str | None) -> dict[str, str]:
        """The variables of a call; None unsets one."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ANTHROPIC_", "BATCH_PIPELINE_"))
        }
        own = {
            "BATCH_PIPELINE_HOME": str(self.home),
            "BATCH_PIPELINE_JOBS_DIR": str(self.jobs_dir),
            "BATCH_PIPELINE_POLL_SECONDS": "0.1",
            # A simulator keeps its batches here.
            "XDG_STATE_HOME": str(self.folder / "state"),
            "COLUMNS": "200",
        }
        merged: dict[str, str | None] = {**inherited, **own, **self.environ, **changes}
        return {name: value for name, value in merged.items() if value is not None}

    def __call__(self, *arguments: str, **changes: str | None) -> Ended:
        """Run a command in this process; what it logs is not in `err`."""
        out, err = io.StringIO(), io.StringIO()
        code: object = None
        with (
            mock.patch.dict(os.environ, self.environment(**changes), clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main(arguments)
            except SystemExit as done:
                code = done.code
        assert isinstance(code, int)
        return _checked(Ended(code, out.getvalue(), err.getvalue()))

    def process(self, *arguments: str, **changes: str | None) -> Ended:
        """Run a command in a process of its own."""
        with self.start(*arguments, **changes) as process:
            return finished(process)

    @contextlib.contextmanager
    def start(self, *arguments: str, **changes: str | None) -> Iterator[subprocess.Popen[str]]:
        """A process, in a group of its own, that is gone at the end of the block."""
        process = subprocess.Popen(
            [PROGRAM, *arguments],
            env=self.environment(**changes),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            process_group=0,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def declare(self, name: str, rows: list[dict[str, Any]] | None = None, **changes: Any) -> str:
        """A job over these rows, with its declaration in the jobs folder; returns its name."""
        source = self.folder / f"{name}.jsonl"
        if rows is not None:
            source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        declared: dict[str, Any] = {
            "name": name,
            "input": {"path": str(source)},
            "prompt": {"user": "Sum up: {text}"},
            "model_id": MODEL,
            "max_tokens": 4_000,
            "pilot": {"size": 0},
        }
        attributes = {k: v for k, v in (declared | changes).items() if v is not None}
        file = self.jobs_dir / name / "defs.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        document = {"type": "batch_pipeline.BatchJobComponent", "attributes": attributes}
        file.write_text(yaml.safe_dump(document))
        return name


def finished(process: subprocess.Popen[str]) -> Ended:
    """Wait for a started command."""
    out, err = process.communicate(timeout=SECONDS)
    return _checked(Ended(process.returncode, out, err))


def _checked(ended: Ended) -> Ended:
    """Whatever the command was, the key is in none of its streams, and no library complains."""
    assert KEY not in ended.out
    assert KEY not in ended.err
    assert "leaked" not in ended.err
    return ended


def documents(count: int) -> list[dict[str, Any]]:
    """Documents that no other call has: the simulator of a module counts what it is sent."""
    name = uuid.uuid4().hex
    return [{"id": f"[b]Akte {n}/ä", "text": f"file {name}-{n}"} for n in range(count)]
