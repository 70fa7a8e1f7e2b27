"""20,000 documents in a bucket, read by two processes that have nothing else in common."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.storage.files import Files
from batch_pipeline_tests import stores
from batch_pipeline_tests.flow.dataset.test_shared_reading import begun, files_of, put_together
from batch_pipeline_tests.support import PARTITION, job, settings

DOCUMENTS = 20_000
FILES = 12
Made = tuple[NewSnapshot, dict[str, str]]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket with the input, of 64 MB, in its folder `in`."""
    with stores.running_s3() as url, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", url)
        patched.setenv("AWS_ACCESS_KEY_ID", "any")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        stores.as_another_process()
        name = stores.new_bucket(url)
        files = Files(f"s3://{name}")
        rows = _rows()
        for number in range(FILES):
            files.write(f"in/{number:02d}.jsonl", b"".join(rows[number::FILES]))
        yield f"s3://{name}"
        stores.as_another_process()


def _rows() -> list[bytes]:
    """Lines of documents of 3.2 kB; each tenth asks what another one asks."""
    words = random.Random(7).choices(["licence", "fee", "term", "party", "ähnlich"], k=4_000)
    texts = [" ".join(words[n : n + 500])[:3_100] for n in range(500)]
    asked = (n - (n % 10 == 9) for n in range(DOCUMENTS))
    return [
        orjson.dumps({"id": f"Akte {n}", "text": f"{like} {texts[like % 500]}"}) + b"\n"
        for n, like in enumerate(asked)
    ]


@pytest.fixture(scope="module")
def by_one(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The snapshot that one process makes of the input."""
    url = f"sqlite:///{tmp_path_factory.mktemp('one') / 'ledger.sqlite'}"
    with Pipeline(settings(f"{bucket}/one", ledger_url=url, workers=1)) as pipeline:
        spec = job(f"{bucket}/in/*.jsonl")
        sources = find_input(pipeline, spec, PARTITION)
        return _made(pipeline, input_dataset.read_snapshot(pipeline, spec, PARTITION, sources))


def _made(pipeline: Pipeline, snapshot: NewSnapshot) -> Made:
    """A snapshot, and what each of its files holds."""
    found = files_of(pipeline, snapshot)
    return snapshot, {name: hashlib.sha256(data or b"").hexdigest() for name, data in found.items()}


def test_two_processes_make_the_same_snapshot_as_one(
    bucket: str, by_one: Made, postgres_url: str, tmp_path: Path
) -> None:
    home, source = f"{bucket}/{tmp_path.name}", f"{bucket}/in/*.jsonl"
    with Pipeline(settings(home, ledger_url=postgres_url, workers=1)) as pipeline:
        spec = job(source, spread=2)
        reading = begun(pipeline, spec)
        workers = [_worker(tmp_path / f"machine {n}", home, postgres_url, source) for n in range(2)]
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        prepared = [worker.communicate(timeout=120)[0] for worker in workers]
        assert sum(map(int, prepared)) == reading.pieces == FILES
        assert "0\n" not in prepared
        made = _made(pipeline, put_together(pipeline, spec, reading))
    assert made == by_one
    assert (made[0].items, made[0].duplicates) == (DOCUMENTS, DOCUMENTS // 10)
    assert {"decisions.parquet", "snapshot.json", "part-00011.parquet"} <= made[1].keys()


def _worker(folder: Path, *arguments: str) -> Any:
    """A process with a folder, and a folder for temporary files, of its own."""
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "batch_pipeline_tests.flow.dataset.shared_worker", *arguments],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
