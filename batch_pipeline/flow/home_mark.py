"""The mark of a home: which ledger it belongs to, and how far that ledger had come.

A ledger that was deleted, restored from a backup or exchanged does not know what was bought since,
and would buy it again. So the home says what the ledger has to know, in `_ledger/`:

- `home.json` names the home and its ledger.
- `sent/<number>-<account>-<token>.json` is one file for each submission that was sealed, or whose
  calls have begun. The number is the ledger's (`ledger.home.identity`), raised in the transaction
  that seals; the file is written after that transaction and before the last bytes of the body, or
  the first call, leave. So the mark is never ahead of a ledger that was rolled back or whose
  process died, and a submission that may have been bought always has its file.

The highest number is the mark. Each file has a name of its own, so that several processes and
machines raise the mark without reading it first, in a folder or in an object store that knows
neither appending nor comparing. Files of submissions that are settled are removed when a home is
opened, except the highest of each account.

A real account does not look at what a simulator was sent: nothing was bought there.

Belongs here: writing the mark and judging a ledger by it. What is made of the files after a loss
stands in `recovery`.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import orjson
import sqlalchemy as sa

from batch_pipeline.errors import LedgerError, StorageError
from batch_pipeline.flow import paths
from batch_pipeline.ledger import nights, snapshots
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger, now
from batch_pipeline.ledger.home import identity
from batch_pipeline.ledger.home.identity import Identity, Sent
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.listed_batches import LATE_WATCH_SECONDS
from batch_pipeline.ledger.submissions.submissions import LIVE, State
from batch_pipeline.safe_text import get_logger
from batch_pipeline.settings import is_simulated
from batch_pipeline.storage.files import Files
from batch_pipeline.storage.storage_errors import removed

log = get_logger(__name__)

_NAME = re.compile(r"([0-9]+)-(.+)-([a-z2-7]{16})\.json")
WHAT_TO_DO = (
    "Nothing was sent. Set BATCH_PIPELINE_HOME and BATCH_PIPELINE_LEDGER_URL to a home and its own "
    "ledger if they were mistaken. If the ledger is lost or older than the home, "
    "`batch-pipeline recover --dry-run` shows what can be rebuilt from the home and the API's "
    "list, and `batch-pipeline recover` rebuilds it, so that nothing is bought again."
)


@dataclass(frozen=True)
class Marked:
    """A file of the folder `sent`, by its name."""

    number: int
    account: str
    token: str
    path: str

    @classmethod
    def of(cls, path: str) -> Marked | None:
        """None for a file of another name."""
        found = _NAME.fullmatch(path.rsplit("/", 1)[-1])
        return None if found is None else cls(int(found[1]), found[2], found[3], path)


class HomeMark:
    """The mark of one home, as a process with this ledger reads and raises it."""

    def __init__(self, files: Files, ledger: Ledger, ledger_url: str) -> None:
        self._files, self._ledger = files, ledger
        self._ledger_location = location(ledger_url)
        self._lock = threading.Lock()
        # The ledger's number when it was checked; None: it was not checked yet.
        self._begun_at: int | None = None
        # The numbers that this process has raised the mark to.
        self._raised: set[int] = set()

    def check(self, *, simulated: bool) -> None:
        """Let the home belong to the ledger where it has none; once for each process.

        `simulated`: what is about to be sent is a simulator's. Raises LedgerError, and nothing may
        be sent, where the ledger lacks what the home has.
        """
        with self._lock:
            if self._begun_at is not None:
                return
            told, sent = self.read(), self.sent()
            with self._ledger.write() as connection:
                mine = identity.read(connection)
            self._compare(told, sent, mine, simulated=simulated)
            if told is None or told["ledger"] != mine.ledger or mine.home is None:
                self.bind()
                with self._ledger.read() as connection:
                    mine = identity.read(connection)
            self._sweep(sent)
            self._begun_at = mine.sent

    def problem(self, *, simulated: bool) -> str | None:
        """Why `check` would refuse the ledger; None: it would not. Nothing is written."""
        with self._ledger.read() as connection:
            mine = identity.find(connection) or Identity("", None, None, 0)
        try:
            self._compare(self.read(), self.sent(), mine, simulated=simulated)
        except LedgerError as error:
            return str(error)
        return None

    def _compare(
        self,
        told: dict[str, Any] | None,
        sent: Sequence[Marked],
        mine: Identity,
        *,
        simulated: bool,
    ) -> None:
        """Raise LedgerError where the ledger lacks what the home has."""
        relevant = [each for each in sent if simulated or not is_simulated(each.account)]
        if told is not None and mine.home not in (None, told["home"]):
            raise LedgerError(self.another_home(mine))
        if told is None:
            self._refuse_unmarked(mine, simulated=simulated)
        elif told["ledger"] != mine.ledger and relevant:
            raise LedgerError(
                f"The home {location(self._files.home)} belongs to another ledger than "
                f"{self._ledger_location}: to the one last seen at {told['ledger_location']}, "
                f"which has sent {len(relevant):,} submissions that are marked here. "
                f"{WHAT_TO_DO}"
            )
        if relevant:
            self._refuse_behind(mine, max(relevant, key=lambda each: each.number))

    def raise_to(self, sent: Sent) -> None:
        """Write the file of a submission that is about to leave.

        Raises LedgerError, and it may not leave, where the ledger was exchanged under this process.
        """
        self.check(simulated=is_simulated(sent.account))
        told = self.read()
        with self._ledger.read() as connection:
            mine = identity.read(connection)
        with self._lock:
            # Numbers of a ledger that was restored meanwhile begin again from an earlier one.
            again = sent.number <= (self._begun_at or 0) or sent.number in self._raised
            self._raised.add(sent.number)
            if told is None or told["ledger"] != mine.ledger or again:
                raise LedgerError(
                    f"The ledger {self._ledger_location} or the mark of the home "
                    f"{location(self._files.home)} was exchanged while this process ran. "
                    f"{WHAT_TO_DO}"
                )
        self._write(sent)

    def _write(self, sent: Sent) -> None:
        name = f"{sent.number:012d}-{sent.account}-{sent.token}.json"
        fields = asdict(sent)
        if sent.owner is None:
            # A process of an earlier version knows no owner.
            del fields["owner"]
        self._files.write(f"{paths.SENT}/{name}", orjson.dumps(fields, default=str))

    def _note_snapshots(self) -> None:
        """Write what the ledger knows of its nights' snapshots beside those that lack it."""
        with self._ledger.read() as connection:
            for night in nights.list_nights(connection):
                found = snapshots.snapshots_of(connection, night.id).get(night.snapshot_id or 0)
                if found is None or night.pruned_at is not None:
                    continue
                facts = paths.snapshot_facts(found.folder)
                if not self._files.glob(facts) and self._files.glob(f"{found.folder}/*.parquet"):
                    self._files.write(facts, orjson.dumps(found.as_json()))

    def check_there(self) -> None:
        """Raise StorageError where the home was removed under this process.

        A SQLite ledger that is open goes on without its file, and what it records is lost.
        """
        if self.read() is None:
            raise StorageError(removed(self._files.home))

    def read(self) -> dict[str, Any] | None:
        """What `home.json` says; None where the home has no mark."""
        data = self._files.read(paths.MARK)
        if data is None:
            return None
        try:
            told = orjson.loads(data)
            return {key: str(told[key]) for key in ("home", "ledger", "ledger_location")}
        except (ValueError, KeyError, TypeError):
            raise LedgerError(
                f"{location(self._files.uri(paths.MARK))} cannot be read: it is not whole. "
                "Nothing was sent. Remove it and run again: home and ledger are compared then."
            ) from None

    def sent(self) -> list[Marked]:
        """The files of submissions, by number."""
        found = (Marked.of(path) for path in self._files.list(paths.SENT, ".json"))
        return [marked for marked in found if marked is not None]

    def load(self, marked: Marked) -> Sent:
        """What a file says; raises LedgerError where it cannot be read."""
        try:
            fields = orjson.loads(self._files.read(marked.path) or b"")
            return Sent(**{**fields, "usd_bound": Decimal(fields["usd_bound"])})
        except (ValueError, KeyError, TypeError):
            raise LedgerError(
                f"{location(self._files.uri(marked.path))} cannot be read: it is not whole. "
                "It marks a submission that may have been bought: bring it back from a backup of "
                "the home, or remove it, if that may be bought again."
            ) from None

    def bind(self) -> None:
        """Let home and ledger belong to each other from now on.

        The ledger keeps the home's name first: of two processes that do it both write the same.
        """
        told = self.read()
        place = location(self._files.home)
        with self._ledger.write() as connection:
            mine = identity.read(connection)
            home = mine.home or (told["home"] if told is not None else uuid.uuid4().hex)
            identity.set_home(connection, home, place)
            live = [] if told is not None else submissions.find(connection, states=LIVE)
            sent = [identity.count_sent(connection, one.id) for one in live]
        # A home of an earlier version: what is in flight, and what it asked for, is noted now.
        for each in sent:
            self._write(each)
        self._note_snapshots()
        mark = {"home": home, "ledger": mine.ledger, "ledger_location": self._ledger_location}
        self._files.write(paths.MARK, orjson.dumps(mark, option=orjson.OPT_INDENT_2))

    def another_home(self, mine: Identity) -> str:
        """The message that the ledger serves another home."""
        where = f", last seen at {mine.home_location}" if mine.home_location else ""
        return (
            f"The ledger {self._ledger_location} belongs to another home than "
            f"{location(self._files.home)}{where}: what its nights consist of lies there. Nothing "
            "was sent. Set BATCH_PIPELINE_HOME to that home, or BATCH_PIPELINE_LEDGER_URL to a "
            "ledger of this home's own; one ledger serves one home."
        )

    def _refuse_unmarked(self, mine: Identity, *, simulated: bool) -> None:
        """Refuse a home without a mark whose files the ledger does not know, or the other way."""
        with self._ledger.read() as connection:
            known = {
                (night.job, night.partition)
                for night in nights.list_nights(connection)
                if night.snapshot_id is not None
            }
        bought = partitions_bought(self._files, simulated=simulated)
        missing = sorted(bought - known)
        if missing:
            first = ", ".join(f"{job} {partition}" for job, partition in missing[:3])
            raise LedgerError(
                f"The home {location(self._files.home)} has results or raw answers of "
                f"{len(missing):,} nights ({first}{', …' if len(missing) > 3 else ''}) that the "
                f"ledger {self._ledger_location} does not know. {WHAT_TO_DO}"
            )
        if known and not self._files.glob("*/results/partition=*/*.parquet"):
            raise LedgerError(self.another_home(mine))

    def _refuse_behind(self, mine: Identity, top: Marked) -> None:
        with self._ledger.read() as connection:
            known = submissions.by_token(connection, top.account, top.token)
        if top.number > mine.sent or known is None:
            sent = self.load(top)
            raise LedgerError(
                f"The ledger {self._ledger_location} is behind its home "
                f"{location(self._files.home)}: the home's mark is {top.number:,} (a submission of "
                f"{sent.job} {sent.partition} under account {sent.account}), the ledger has come "
                f"to {mine.sent:,}{'' if known else ' and does not know it'}. It was restored "
                f"from a backup, or exchanged. {WHAT_TO_DO}"
            )

    def _sweep(self, sent: Sequence[Marked]) -> None:
        """Remove the files of submissions that are settled, except the highest of each account."""
        highest = {each.account: each.number for each in sent}
        lower = [each for each in sent if each.number < highest[each.account]]
        if not lower:
            return
        columns = tables.submission.c
        given_up = [State.ABSENT.value, State.REFUSED.value]
        done: set[str] = set()
        with self._ledger.read() as connection:
            late = now(connection) - LATE_WATCH_SECONDS
            settled = sa.or_(
                columns.state == State.COLLECTED.value,
                sa.and_(
                    columns.state.in_(given_up),
                    sa.func.coalesce(columns.window_from, columns.intent_at) < late,
                ),
            )
            for some in _groups(lower):
                tokens = [each.token for each in some]
                query = sa.select(columns.token).where(columns.token.in_(tokens), settled)
                done.update(connection.scalars(query))
        for each in lower:
            if each.token in done:
                self._files.remove(each.path)


def _groups(marked: Sequence[Marked], size: int = 500) -> Iterator[Sequence[Marked]]:
    for start in range(0, len(marked), size):
        yield marked[start : start + size]


def partitions_bought(files: Files, *, simulated: bool) -> set[tuple[str, str]]:
    """Jobs and partitions that have answers in the home; without `simulated` those of real accounts
    alone."""
    answered: dict[tuple[str, str], list[str]] = {}
    for folder in ("results", "raw", "raw_realtime"):
        for path in files.glob(f"*/{folder}/partition=*/*"):
            job, _, part, _ = path.split("/", 3)
            found = answered.setdefault((job, part.removeprefix("partition=")), [])
            if folder == "results" and path.endswith(".parquet"):
                found.append(path)
            elif folder != "results":
                found.append("")
    accounts: dict[tuple[str, str], set[str]] = {}
    for path in files.glob("*/manifests/*/partition=*/*.parquet"):
        job, _, account, part, _ = path.split("/", 4)
        accounts.setdefault((job, part.removeprefix("partition=")), set()).add(account)
    bought = set()
    for key, found in answered.items():
        by = accounts.get(key)
        if not simulated and by and all(map(is_simulated, by)):
            continue
        results = [path for path in found if path]
        if "" in found or _has_answers(files, results, simulated=simulated):
            bought.add(key)
    return bought


def _has_answers(files: Files, results: Sequence[str], *, simulated: bool) -> bool:
    """Whether results files have a row that an answer made."""
    import pyarrow.compute as pc  # noqa: PLC0415  # a home with a mark does without Arrow

    wanted = pc.field("custom_id").is_valid()
    if not simulated:
        wanted &= ~pc.field("simulated")
    return bool(results) and files.dataset(results).count_rows(filter=wanted) > 0


def location(url: str) -> str:
    """A path, or a URL without user name, password and query: what a person may be shown."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.startswith("sqlite"):
        return url
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
