"""Which executor runs a job's steps and runs of asset selections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_pipeline.definitions import defs
from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration import executors
from batch_pipeline.orchestration.build import build_batch_job

MakeSpec = Callable[..., JobSpec]
# As Dagster names the executor that starts a process for each step.
DAGSTERS_OWN = "multi_or_in_process_executor"


def executors_of(definitions: dg.Definitions) -> Mapping[str, str]:
    """The executor of each job, and of runs of any assets, by the job's name."""
    repository = definitions.get_repository_def()
    return {job.name.removeprefix("__"): job.executor_def.name for job in repository.get_all_jobs()}


@dg.executor(name="of_the_location")
def of_the_location(_: dg.InitExecutorContext) -> Any:
    raise NotImplementedError


def test_jobs_have_the_executor_of_their_code_location(make_spec: MakeSpec) -> None:
    job = build_batch_job(make_spec())
    # What fails here first when Dagster moves the class that `AssetJob` derives from.
    alone = executors_of(job)
    assert alone["review_submit"] == alone["review_collect"] == "in_process"
    merged = executors_of(dg.Definitions.merge(job, dg.Definitions(executor=of_the_location)))
    assert merged["review_submit"] == merged["review_collect"] == "of_the_location"
    assert merged["ASSET_JOB"] == "of_the_location"
    # One op, which only writes into the ledger.
    assert alone["review_control"] == merged["review_control"] == "in_process"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "in_process"),
        ("multiprocess", "multiprocess"),
        ("celery", "celery"),
        ("k8s", "k8s"),
        ("dagster:multi_or_in_process_executor", DAGSTERS_OWN),
    ],
)
def test_the_variable_names_the_executor_of_jobs_and_selections(
    name: str | None,
    expected: str,
    make_spec: MakeSpec,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BATCH_PIPELINE_HOME", str(home))
    if name is not None:
        monkeypatch.setenv(executors.VARIABLE, name)
    found = executors_of(defs())
    assert {found[job] for job in found if not job.endswith("_control")} == {expected}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("threads", "set it to in_process, multiprocess, celery, k8s"),
        ("no_such_module:executor", "cannot be loaded: No module named 'no_such_module'"),
        ("dagster:no_such_executor", "cannot be loaded: module 'dagster' has no attribute"),
        ("dagster:asset", "is no executor"),
    ],
)
def test_what_is_no_executor_is_refused_with_what_to_do(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        executors.of_name(name)
