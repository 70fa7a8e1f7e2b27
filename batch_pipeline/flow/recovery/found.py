"""What a home holds of submissions: marks, answers, raw lines, journals, rows of results.

Belongs here: reading alone. A submission is known by its token, which each custom id begins with.
Which requests it asked follows from its mark; without one, from the manifest whose fingerprints are
those of its answers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeGuard

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow import paths
from batch_pipeline.flow.answers.answers import REST
from batch_pipeline.flow.answers.schemas import REUSED
from batch_pipeline.flow.batches import listing
from batch_pipeline.flow.dataset.documents.needed_documents import names_in
from batch_pipeline.flow.dataset.requests.declaration import parse_custom_id
from batch_pipeline.flow.dataset.requests.sizes import prompt_sizes, sum_sizes
from batch_pipeline.flow.home_mark import HomeMark
from batch_pipeline.flow.planning import manifests
from batch_pipeline.flow.realtime.journal import read_lines
from batch_pipeline.ledger.home.identity import Sent
from batch_pipeline.storage.files import Files

_TOKEN = re.compile(r"[a-z2-7]{16}")
_SAMPLE = ["custom_id", "fingerprint", "attempt", "batch_id", "mode", "model"]


@dataclass
class Found:
    """A submission that the home knows of.

    `owner` is whose night it is of, `account` what sent it, as far as the home tells. `sent` is
    what its row can be made of; None: nothing names its requests. `answers` is the path
    of its answers, `batch_id` is that of its raw lines or answers. `raw` and `journal`: its lines
    are in the home; `shown`: results have rows of it.
    """

    token: str
    job: str
    partition: str
    owner: str | None = None
    account: str | None = None
    sent: Sent | None = None
    answers: str | None = None
    batch_id: str | None = None
    raw: bool = False
    journal: bool = False
    shown: bool = False
    # Number, fingerprint and attempt of one of its requests, by which its manifest is found.
    sample: tuple[int, str, int] | None = None
    engine: str = "batch"
    model: str | None = None
    # Its requests can be made again: the files of its snapshot are there, and what they mean.
    readable: bool = False
    # Paths of documents that its snapshot needs and the home does not keep any more.
    missing_documents: Sequence[str] = ()


def find(
    files: Files, mark: HomeMark, collected: Collection[str], taken: Collection[str]
) -> list[Found]:
    """All submissions of a home but those in `collected`, which the ledger has whole.

    `taken` are the manifests of submissions that the ledger knows.
    """
    home = _Home(files, collected)
    for marked in mark.sent():
        if marked.token not in collected:
            sent = mark.load(marked)
            one = home.submission(sent.token, sent.job, sent.partition)
            one.sent, one.account, one.engine = sent, sent.account, sent.engine
            one.owner = sent.owner or sent.account
    home.find_answers()
    home.find_raw_lines()
    home.find_rows()
    found = list(home.found.values())
    _name_requests(files, found, taken)
    folders = {one.sent.snapshot for one in found if one.sent is not None and one.sent.snapshot}
    missing = {folder: documents_missing(files, folder) for folder in folders}
    there = {folder for folder in folders if files.glob(paths.snapshot_facts(folder))}
    for one in found:
        if one.sent is not None and one.sent.snapshot:
            folder = paths.documents(one.job)
            one.missing_documents = [f"{folder}/{name}" for name in missing[one.sent.snapshot]]
            one.readable = one.sent.snapshot in there and not one.missing_documents
    return sorted(found, key=lambda one: one.sent.intent_at if one.sent else 0.0)


def documents_missing(files: Files, snapshot: str) -> list[str]:
    """The documents that rows of a snapshot need, and that the home does not keep any more."""
    needed: set[str] = set()
    for part in files.glob(f"{snapshot}/part-*.parquet"):
        needed.update(names_in(files, part))
    if not needed:
        return []
    job = snapshot.partition("/")[0]
    return sorted(needed.difference(name for name, *_ in files.entries(paths.documents(job))))


class _Home:
    """The submissions of a home but those in `collected`, by token."""

    def __init__(self, files: Files, collected: Collection[str]) -> None:
        self._files, self._collected = files, collected
        self.found: dict[str, Found] = {}

    def submission(self, token: str, job: str, partition: str) -> Found:
        name = partition.removeprefix("partition=")
        return self.found.setdefault(token, Found(token, job, name))

    def _is_wanted(self, token: str | None) -> TypeGuard[str]:
        known = token is None or token in self._collected
        return not known and _TOKEN.fullmatch(token or "") is not None

    def find_answers(self) -> None:
        for path in self._files.glob("*/answers/*/partition=*/*.parquet"):
            job, _, owner, partition, name = path.split("/")
            # In a remote home a file has a name of its own behind the token.
            token, _, further = name.removesuffix(".parquet").partition("-")
            if self._is_wanted(token) and not f"-{further}".startswith(REST):
                one = self.submission(token, job, partition)
                one.owner, one.answers = owner, path
                _look_into(self._files, one, path)

    def find_raw_lines(self) -> None:
        for path in self._files.glob("*/raw/partition=*/*.jsonl.zst"):
            job, _, partition, name = path.split("/")
            batch_id = name.removesuffix(".jsonl.zst")
            token = None if batch_id.endswith(REST) else _token_in(self._files, path)
            if self._is_wanted(token):
                one = self.submission(token, job, partition)
                one.raw, one.batch_id = True, batch_id
        for path in self._files.glob("*/raw_realtime/partition=*/*.jsonl.zst"):
            job, _, partition, name = path.split("/")
            if self._is_wanted(token := name.split("-")[0]):
                one = self.submission(token, job, partition)
                one.journal, one.engine = True, "realtime"

    def find_rows(self) -> None:
        for job, partition, rows in _results(self._files):
            for row in rows:
                parsed = parse_custom_id(row["custom_id"])
                if parsed is not None and self._is_wanted(parsed[0]):
                    one = self.submission(parsed[0], job, partition)
                    one.shown = True
                    _look_at(one, [row])


def _look_at(one: Found, rows: list[dict[str, Any]]) -> None:
    """Take from one answer what all answers of a submission have in common."""
    for row in rows:
        parsed = parse_custom_id(row["custom_id"])
        if parsed is not None:
            one.sample = one.sample or (parsed[1], row["fingerprint"], row["attempt"])
            one.batch_id = one.batch_id or row["batch_id"]
            one.engine = row["mode"] or one.engine
            one.model = one.model or row["model"]


def _token_in(files: Files, path: str) -> str | None:
    """The token in a file of raw lines; None where there is none, or none can be read."""
    # Few at a time: what is damaged further on in the file does not matter here.
    with closing(files.decompressed(path, 1 << 16)) as chunks:
        try:
            return listing.token_in(chunks)
        except (zstandard.ZstdError, ApiFailure):
            return None


def _results(files: Files) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """By night, one row of results of each submission that has one."""
    nights: dict[tuple[str, str], list[str]] = {}
    for path in files.glob("*/results/partition=*/*.parquet"):
        job, _, part, _ = path.split("/")
        nights.setdefault((job, part.removeprefix("partition=")), []).append(path)
    for (job, partition), found in nights.items():
        rows: dict[str, dict[str, Any]] = {}
        # A row that reuses an answer names the submission of another night.
        own = pc.field("mode") != REUSED
        for batch in files.dataset(found).to_batches(columns=_SAMPLE, filter=own):
            tokens = pc.utf8_slice_codeunits(batch.column("custom_id"), 0, 16)
            for token in pc.unique(tokens.drop_null()).to_pylist():
                if token not in rows:
                    at = pc.index(tokens, token).as_py()
                    rows[token] = batch.slice(at, 1).to_pylist()[0]
        yield job, partition, list(rows.values())


def _look_into(files: Files, one: Found, path: str) -> None:
    """Take from a file of answers what its footer says of the submission, and its first answer."""
    with files.open_native(path) as file, pq.ParquetFile(file) as parquet:
        told = parquet.metadata.metadata or {}
        first = next(parquet.iter_batches(1, columns=_SAMPLE, use_threads=False), None)
    one.account = one.account or told.get(b"account", b"").decode() or one.owner
    # Files of an earlier version say nothing.
    manifest = told.get(b"manifest", b"").decode()
    if one.sent is None and manifest and files.glob(manifest):
        read = manifests.read(files, manifest)
        one.sent = _of_manifest(one, manifest, read, float(told[b"intent_at"]))
    _look_at(one, [] if first is None else first.to_pylist())


def _name_requests(files: Files, found: list[Found], taken: Collection[str]) -> None:
    """Find the manifests of submissions that have answers and nothing that names their requests.

    A manifest goes to one submission: two of one night may ask for the same requests, but then of
    two manifests.
    """
    wanted: dict[tuple[str, str], dict[tuple[int, str, int], list[Found]]] = {}
    used = {*taken, *(one.sent.manifest for one in found if one.sent is not None)}
    for one in found:
        if one.sent is None and one.sample is not None:
            night = wanted.setdefault((one.job, one.partition), {})
            night.setdefault(one.sample, []).append(one)
    for (job, partition), samples in wanted.items():
        fingerprints = pa.array({fingerprint for _, fingerprint, _ in samples})
        for path in files.glob(f"{job}/manifests/*/partition={partition}/*.parquet"):
            if path in used:
                continue
            manifest = manifests.read(files, path)
            asked, attempts = manifest.column("fingerprint"), manifest.column("attempt")
            for at in pc.indices_nonzero(pc.is_in(asked, fingerprints)).to_pylist():
                key = (at, asked[at].as_py(), attempts[at].as_py())
                mine = [
                    one
                    for one in samples.get(key, ())
                    if one.sent is None and one.owner in (None, path.split("/")[2])
                ]
                if mine:
                    mine[0].owner = path.split("/")[2]
                    mine[0].account = mine[0].account or mine[0].owner
                    mine[0].sent = _of_manifest(mine[0], path, manifest, 0.0)
                    break


def _of_manifest(one: Found, path: str, manifest: pa.Table, intent_at: float) -> Sent:
    """What a submission's row can be made of, from its manifest; `intent_at` is 0 if not known."""
    facts = manifests.facts_of(manifest)
    sizes, prompts = sum_sizes(manifest), prompt_sizes(manifest)
    sent = without_manifest(one)
    return replace(
        sent,
        engine=facts.get("engine") or sent.engine,
        requests=manifest.num_rows,
        intent_at=intent_at,
        snapshot=facts.get("snapshot", ""),
        manifest=path,
        pilot=facts.get("pilot", False),
        bytes=sizes.request_bytes,
        prompt_size=sizes.of_prompts[0],
        largest_bytes=pc.max(prompts).as_py() or 0,
    )


def without_manifest(one: Found) -> Sent:
    """What a submission's row is made of where nothing of its requests but answers is left."""
    assert one.account is not None
    return Sent(
        number=0,
        token=one.token,
        account=one.account,
        owner=None if one.owner == one.account else one.owner,
        job=one.job,
        partition=one.partition,
        engine="realtime" if one.engine == "realtime" else "batch",
        requests=0,
        usd_bound=Decimal(0),
        stated_prices=None,
        intent_at=0.0,
        snapshot="",
        manifest="",
        pilot=False,
        bytes=0,
        largest_bytes=0,
        output_tokens=0,
        for_deadline=False,
    )


def calls_without_an_answer(files: Files, sent: Sent) -> int:
    """Requests of a real-time submission of which its journals have no line."""
    folder = paths.raw_realtime(sent.job, sent.partition)
    answered = set()
    for line in read_lines(files, folder, sent.token):
        parsed = parse_custom_id(orjson.loads(line).get("custom_id"))
        if parsed is not None:
            answered.add(parsed[1])
    return sent.requests - len(answered)
