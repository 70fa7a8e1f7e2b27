"""Settings from the environment: read once by each command, run and sensor evaluation.

The API key is not among them: the official SDK reads it itself, and a value that is not held
cannot be printed. What a job declares is in `jobs.spec`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from batch_pipeline.errors import UsageError

# A longer wait that the API asks for is cut to this one: then it is asked again.
LONGEST_WAIT_SECONDS = 3600.0
# The jobs that come with the package.
PACKAGED_JOBS = Path(__file__).absolute().parent / "defs"
DEFAULT_HOME = "~/batch_pipeline_home"
# Letters, digits, - and _: names are parts of paths, and of the names of a simulator's accounts.
ACCOUNT_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
DEFAULT_ACCOUNT = "default"
SIMULATOR_ACCOUNT = "simulator"
"""The simulator's own account, since none of its answers may count as one of the real API."""
ACCOUNTS_FILE = "accounts.yaml"
MOST_QUEUED_REQUESTS = "BATCH_PIPELINE_MAX_QUEUED_REQUESTS"
MOST_USD_PER_MONTH = "BATCH_PIPELINE_MAX_USD_PER_MONTH"
# The queue limit of most organisations at the API.
USUAL_QUEUE_LIMIT = 200_000


def is_simulated(account: str) -> bool:
    """Whether an account, organisation or owner of a ledger is a simulator's."""
    return account == SIMULATOR_ACCOUNT or account.startswith(f"{SIMULATOR_ACCOUNT}.")


@dataclass(frozen=True)
class Settings:
    """Home, ledger and jobs folder, the account and its limits, and intervals in seconds.

    `home` is an absolute local path, or the URL of a remote folder as it was given. `ledger_url`
    and `alert_urls` may hold secrets: they are left out of `repr` and must not be printed.
    `accounts_file` None: `account` is the only one. With the file, `account` sends the jobs that
    name none, and the limits are those of accounts that declare none.
    """

    home: str
    ledger_url: str = field(repr=False)
    jobs_dir: Path
    account: str
    poll_seconds: float
    max_queued_requests: int
    max_usd_per_month: Decimal | None
    reconcile_seconds: float
    lease_seconds: float
    workers: int
    # Of the packaged code location: see `orchestration.definitions.executors`.
    executor: str = "in_process"
    # Addresses with tokens and passwords in them.
    alert_urls: str | None = field(default=None, repr=False)
    accounts_file: Path | None = None
    # No limit was set, and `max_queued_requests` is the usual one.
    queue_limit_assumed: bool = field(default=False, compare=False)

    @property
    def home_is_remote(self) -> bool:
        """Whether the home is reached through a filesystem URL rather than as a local folder."""
        return "://" in self.home

    @property
    def ledger_file(self) -> Path | None:
        """The file of a SQLite ledger; None where the ledger is in another database."""
        url = make_url(self.ledger_url)
        sqlite = url.get_backend_name() == "sqlite" and url.database
        return Path(str(url.database)) if sqlite else None

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, *, relative_home: bool = True
    ) -> Settings:
        """The settings that `environ` (unless given, the process's own) holds now.

        With `relative_home` False a relative home or ledger is refused instead of being resolved
        against the current folder: Dagster's processes do not share one. An empty variable counts
        as not set. Raises UsageError, which names the variable and what to do.
        """
        read = _Reader(os.environ if environ is None else environ)
        home = _home(read, relative_allowed=relative_home)
        jobs_dir = _jobs_dir(read)
        return cls(
            home=home,
            ledger_url=_ledger_url(read, home, relative_allowed=relative_home),
            jobs_dir=jobs_dir,
            account=_account(read),
            poll_seconds=read.seconds("BATCH_PIPELINE_POLL_SECONDS", 60),
            max_queued_requests=read.count(MOST_QUEUED_REQUESTS, USUAL_QUEUE_LIMIT),
            max_usd_per_month=read.usd(MOST_USD_PER_MONTH),
            reconcile_seconds=read.seconds("BATCH_PIPELINE_RECONCILE_SECONDS", 600),
            lease_seconds=read.seconds("BATCH_PIPELINE_LEASE_SECONDS", 60),
            workers=read.count("BATCH_PIPELINE_WORKERS", _cores()),
            executor=read.text("BATCH_PIPELINE_EXECUTOR") or "in_process",
            alert_urls=read.text("BATCH_PIPELINE_ALERT_URLS"),
            accounts_file=_accounts_file(read, jobs_dir),
            queue_limit_assumed=read.text(MOST_QUEUED_REQUESTS) is None,
        )


def home_from_environment(*, relative_allowed: bool = True) -> str:
    """The home alone, for what only reads results: it needs no ledger."""
    return _home(_Reader(os.environ), relative_allowed=relative_allowed)


def accounts_of_environment(jobs_dir: Path) -> tuple[Path | None, str]:
    """The file of the accounts for the jobs of a folder, None: there is none; and the account that
    the environment names."""
    read = _Reader(os.environ)
    return _accounts_file(read, jobs_dir), _account(read)


@dataclass(frozen=True)
class _Reader:
    """Typed reading of an environment; each error names variable, value and remedy."""

    environ: Mapping[str, str]

    def text(self, name: str) -> str | None:
        return self.environ.get(name, "").strip() or None

    def seconds(self, name: str, default: float) -> float:
        text = self.text(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise _not_a(name, text, "a positive number of seconds", f"the default of {default:g}")
        return value

    def count(self, name: str, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            value = 0
        if value < 1:
            raise _not_a(name, text, "a positive whole number", f"the default of {default}")
        return value

    def usd(self, name: str) -> Decimal | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite() or value <= 0:
            raise _not_a(name, text, "a positive amount in USD such as 250", "no ceiling")
        return value


def _cores() -> int:
    """The cores that this process may use: in a container often fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cpu_quota()
    # A quota of 1.5 cores is 2 processes; one of 0.2 is still one.
    return cores if quota >= cores else max(1, math.floor(quota + 0.5))


def _cpu_quota(root: Path = Path("/")) -> float:
    """The cores that Linux's control groups let this process use together; infinite without one.

    A group is bound by the quotas of the groups above it too. Inside a container the path that the
    kernel tells may be the host's, which is not there: the container's own group is then the top.
    """
    quotas = [math.inf]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / name for name in ("cpu", controllers, "cpu,cpuacct")]
        else:
            continue
        for top in tops:
            group = top / path.strip("/")
            for folder in (group, *group.parents):
                quotas.append(_quota_of(folder))
                if folder == top:
                    break
    return min(quotas)


def _quota_of(folder: Path) -> float:
    """The quota of one control group, of version 2 (`cpu.max`) or 1, in cores."""
    version_1 = (folder / name for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    texts = _text(folder / "cpu.max").split() or [_text(path).strip() for path in version_1]
    try:
        quota, period = map(int, texts)
    except ValueError:  # there is no such file, or it says `max`
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeError):
        return ""


def _not_a(name: str, value: str, wanted: str, default: str) -> UsageError:
    return UsageError(f"{name} is {value!r}; set it to {wanted}, or unset it for {default}")


def _home(read: _Reader, *, relative_allowed: bool) -> str:
    text = (read.text("BATCH_PIPELINE_HOME") or DEFAULT_HOME).removeprefix("file://")
    if "://" in text:
        return text.rstrip("/")
    return str(_absolute("BATCH_PIPELINE_HOME", text, relative_allowed=relative_allowed))


def _jobs_dir(read: _Reader) -> Path:
    text = read.text("BATCH_PIPELINE_JOBS_DIR")
    if text is None:
        return PACKAGED_JOBS
    if "://" in text:
        raise UsageError(f"BATCH_PIPELINE_JOBS_DIR is {text!r}; set it to a local folder")
    return _absolute("BATCH_PIPELINE_JOBS_DIR", text, relative_allowed=True)


def _accounts_file(read: _Reader, jobs_dir: Path) -> Path | None:
    text = read.text("BATCH_PIPELINE_ACCOUNTS")
    if text is None:
        beside = jobs_dir / ACCOUNTS_FILE
        return beside if beside.is_file() else None
    file = _absolute("BATCH_PIPELINE_ACCOUNTS", text, relative_allowed=True)
    if "://" in text or not file.is_file():
        raise UsageError(
            f"BATCH_PIPELINE_ACCOUNTS is {text!r}, and there is no such file; name a local file, "
            f"or unset it for {ACCOUNTS_FILE} in the folder of the jobs, if there is one"
        )
    return file


def _account(read: _Reader) -> str:
    name = read.text("BATCH_PIPELINE_ACCOUNT") or DEFAULT_ACCOUNT
    if not re.fullmatch(ACCOUNT_NAME, name):
        raise UsageError(
            f"BATCH_PIPELINE_ACCOUNT is {name!r}; use letters, digits, - and _, "
            "beginning with a letter or digit"
        )
    if name.lower() == SIMULATOR_ACCOUNT:
        raise UsageError(
            f"BATCH_PIPELINE_ACCOUNT is {name!r}, which the simulator keeps for itself; "
            "choose another name (the simulator is recognised without it)"
        )
    return name


def _ledger_url(read: _Reader, home: str, *, relative_allowed: bool) -> str:
    text = read.text("BATCH_PIPELINE_LEDGER_URL")
    if text is None:
        if "://" in home:
            raise UsageError(
                f"BATCH_PIPELINE_HOME is {home}, which is not a local folder, so the ledger cannot "
                "be a file in it; set BATCH_PIPELINE_LEDGER_URL to a database, for example "
                "postgresql+psycopg2://user:password@host/batch_pipeline"
            )
        # Quoted, since a URL's database part is unquoted when it is read, and `?` would end it.
        return f"sqlite:///{quote(f'{home}/ledger.sqlite')}"
    return _normalized(text, relative_allowed=relative_allowed)


def _normalized(text: str, *, relative_allowed: bool) -> str:
    """A given ledger URL with its driver spelled out and a SQLite file made absolute."""
    name = "BATCH_PIPELINE_LEDGER_URL"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Neither the value nor the cause is shown: both may hold the password.
        raise UsageError(
            f"{name} is not a SQLAlchemy URL; write it like sqlite:////data/ledger.sqlite or "
            "postgresql+psycopg2://user:password@host/batch_pipeline"
        ) from None
    if url.drivername in {"postgresql", "postgres"}:
        # SQLAlchemy 2.1 reads a bare postgresql:// as psycopg 3, and the extra brings psycopg2.
        return url.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
    if url.get_backend_name() == "postgresql":
        return text
    if url.get_backend_name() != "sqlite":
        raise UsageError(
            f"{name} names a database of the kind {url.get_backend_name()!r}; a ledger is kept in "
            "sqlite or postgresql"
        )
    if url.database in {None, "", ":memory:"}:
        raise UsageError(
            f"{name} is a SQLite database in memory, which forgets what was paid for when the "
            "process ends; name a file, like sqlite:////data/ledger.sqlite"
        )
    file = _absolute(name, str(url.database), relative_allowed=relative_allowed)
    return url.set(database=str(file)).render_as_string(hide_password=False)


def _absolute(name: str, text: str, *, relative_allowed: bool) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{name} is {text!r}: {error}; write an absolute path") from error
    if not path.is_absolute() and not relative_allowed:
        raise UsageError(
            f"{name} is {text!r}, a relative path, and the processes of Dagster do not share a "
            f"current folder; set it to an absolute path such as {path.absolute()}"
        )
    return path.absolute()
