"""Settings from the environment: defaults, absolute places, and errors that name the variable."""

from __future__ import annotations

import math
import os
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

import batch_pipeline
from batch_pipeline import settings
from batch_pipeline.errors import UsageError
from batch_pipeline.settings import Settings


def read(*, relative_home: bool = True, **variables: str) -> Settings:
    environ = {f"BATCH_PIPELINE_{name}": value for name, value in variables.items()}
    return Settings.from_environment(environ, relative_home=relative_home)


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(settings, "_cpu_quota", lambda: math.inf)
    home = tmp_path / "batch_pipeline_home"
    assert Settings.from_environment({}) == Settings(
        home=str(home),
        ledger_url=f"sqlite:///{home}/ledger.sqlite",
        jobs_dir=Path(batch_pipeline.__file__).parent / "defs",
        account="default",
        poll_seconds=60,
        max_queued_requests=200_000,
        max_usd_per_month=None,
        reconcile_seconds=600,
        lease_seconds=60,
        workers=len(os.sched_getaffinity(0)),
    )


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        (
            {
                "proc/self/cgroup": "0::/pod/app\n",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/pod/app/cpu.max": "max 100000\n",
            },
            2,
        ),
        # The host's path, which is not there in the container.
        (
            {"proc/self/cgroup": "0::/kube/x\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"},
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/docker/x\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            math.inf,
        ),
        ({}, math.inf),
    ],
)
def test_a_containers_quota_is_read(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert settings._cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(
    ("quota", "workers"), [(0.2, 1), (1.4, 1), (1.5, 2), (2.0, 2), (7.6, 8), (64, 8), (math.inf, 8)]
)
def test_workers_are_the_cores_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch, quota: float, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(settings, "_cpu_quota", lambda: quota)
    assert read().workers == workers
    assert read(WORKERS="5").workers == 5


def test_the_process_environment_is_read_at_call_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_PIPELINE_ACCOUNT", "first")
    assert Settings.from_environment().account == "first"
    monkeypatch.setenv("BATCH_PIPELINE_ACCOUNT", "second")
    assert Settings.from_environment().account == "second"


def test_values_are_taken(tmp_path: Path) -> None:
    settings = read(
        HOME=str(tmp_path),
        JOBS_DIR=str(tmp_path / "jobs"),
        ACCOUNT="acme-eu_1",
        POLL_SECONDS="0.5",
        MAX_QUEUED_REQUESTS="300000",
        RECONCILE_SECONDS="5",
        LEASE_SECONDS="2",
    )
    assert settings.home == str(tmp_path)
    assert settings.jobs_dir == tmp_path / "jobs"
    assert settings.account == "acme-eu_1"
    assert (settings.poll_seconds, settings.max_queued_requests) == (0.5, 300_000)
    assert (settings.reconcile_seconds, settings.lease_seconds) == (5, 2)


def test_a_variable_set_to_nothing_counts_as_not_set() -> None:
    assert read(HOME="", LEDGER_URL=" ", POLL_SECONDS="", ACCOUNT="") == read()


def test_relative_places_are_made_absolute_for_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read(HOME=".home", JOBS_DIR="jobs")
    assert settings.home == str(tmp_path / ".home")
    assert settings.jobs_dir == tmp_path / "jobs"
    assert make_url(settings.ledger_url).database == str(tmp_path / ".home" / "ledger.sqlite")
    assert read(LEDGER_URL="sqlite:///x.db").ledger_url == f"sqlite:///{tmp_path}/x.db"


def test_a_ledger_in_another_database_is_refused() -> None:
    with pytest.raises(UsageError, match="kept in sqlite or postgresql"):
        read(LEDGER_URL="mysql://u:p@host/db")


@pytest.mark.parametrize("variable", ["HOME", "LEDGER_URL"])
def test_relative_places_are_refused_for_dagster(variable: str) -> None:
    value = {"HOME": ".home", "LEDGER_URL": "sqlite:///x.db"}[variable]
    with pytest.raises(UsageError, match=f"BATCH_PIPELINE_{variable}.*relative.*absolute path"):
        Settings.from_environment({f"BATCH_PIPELINE_{variable}": value}, relative_home=False)


@pytest.mark.parametrize("home", ["~/nights", "/data/nights"])
def test_absolute_homes_are_fine_for_dagster(home: str) -> None:
    assert Path(read(relative_home=False, HOME=home).home).is_absolute()


def test_a_remote_home_needs_a_ledger() -> None:
    with pytest.raises(UsageError, match=r"s3://bucket/home.*BATCH_PIPELINE_LEDGER_URL"):
        read(HOME="s3://bucket/home")
    settings = read(HOME="s3://bucket/home/", LEDGER_URL="postgresql://u:p@db/ledger")
    assert settings.home == "s3://bucket/home"
    assert settings.home_is_remote
    assert settings.ledger_url == "postgresql+psycopg2://u:p@db/ledger"


def test_a_file_url_is_a_local_home() -> None:
    settings = read(HOME="file:///data/home")
    assert settings.home == "/data/home"
    assert not settings.home_is_remote


@pytest.mark.parametrize("folder", ["a b", "100%", "a?b=c", "a#b", "ü", "a%20b"])
def test_the_default_ledger_is_in_the_home_whatever_its_name(tmp_path: Path, folder: str) -> None:
    url = make_url(read(HOME=str(tmp_path / folder)).ledger_url)
    assert url.database == str(tmp_path / folder / "ledger.sqlite")
    assert not url.query


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u:p%40w@h/db?sslmode=require",) * 2,
        ("postgres://u:p@h/db", "postgresql://u:p@h/db"),
        ("postgresql+psycopg://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("sqlite:////data/l.sqlite?timeout=5", "sqlite:////data/l.sqlite?timeout=5"),
    ],
)
def test_ledger_urls(given: str, used: str) -> None:
    expected = used.replace("postgresql://", "postgresql+psycopg2://")
    assert read(LEDGER_URL=given).ledger_url == expected


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_ledger_in_memory_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="forgets what was paid"):
        read(LEDGER_URL=url)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(read(LEDGER_URL="postgresql://u:secret@h/db"))
    for wrong in ("secret", "postgresql://u:secret@h:port/db"):
        with pytest.raises(UsageError) as raised:
            read(LEDGER_URL=wrong)
        assert "BATCH_PIPELINE_LEDGER_URL" in str(raised.value)
        assert "secret" not in str(raised.value)
        assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *((name, value) for name in ("POLL_SECONDS", "RECONCILE_SECONDS", "LEASE_SECONDS")
          for value in ("0", "-1", "soon", "nan", "inf")),
        *(("MAX_QUEUED_REQUESTS", value) for value in ("0", "-5", "1.5", "many")),
    ],
)  # fmt: skip
def test_a_wrong_number_names_variable_value_and_remedy(variable: str, value: str) -> None:
    with pytest.raises(UsageError) as raised:
        Settings.from_environment({f"BATCH_PIPELINE_{variable}": value})
    message = str(raised.value)
    assert message.startswith(f"BATCH_PIPELINE_{variable} is {value!r}; set it to a positive")
    assert "unset it for the default of" in message


@pytest.mark.parametrize("name", ["-a", "a b", "a/b", "ü", "_a", "a\nb"])
def test_a_wrong_account_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="BATCH_PIPELINE_ACCOUNT"):
        read(ACCOUNT=name)


@pytest.mark.parametrize("name", ["simulator", "Simulator"])
def test_the_simulators_account_is_its_own(name: str) -> None:
    with pytest.raises(UsageError, match="the simulator keeps for itself"):
        read(ACCOUNT=name)


def test_the_ceiling_is_an_amount() -> None:
    assert read(MAX_USD_PER_MONTH="250.10").max_usd_per_month == Decimal("250.10")
    for wrong in ("0", "-1", "lots", "nan", "inf"):
        with pytest.raises(UsageError, match="positive amount in USD"):
            read(MAX_USD_PER_MONTH=wrong)
