"""Which executor runs a job's steps and runs of asset selections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_k8s.job import get_user_defined_k8s_config

from batch_pipeline.definitions import defs
from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration import run_tags
from batch_pipeline.orchestration.definitions import executors
from batch_pipeline.orchestration.definitions.build import build_batch_job

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


def test_resources_become_tags_of_runs_and_of_steps(make_spec: MakeSpec) -> None:
    """As the launchers of Kubernetes and ECS read them; a tag of the job's own goes before them."""
    spec = make_spec(
        resources={"cpu": 0.5, "memory": "2Gi"},
        run_tags={"ecs/memory": "4096", "dagster-celery/queue": "large"},
    )
    definitions = build_batch_job(spec)
    for job in ("review_submit", "review_collect"):
        tags = definitions.resolve_job_def(job).run_tags
        assert (tags["ecs/cpu"], tags["ecs/memory"]) == ("512", "4096")
        container = get_user_defined_k8s_config(tags).container_config
        assert container["resources"] == {
            "requests": {"cpu": "0.5", "memory": "2Gi"},
            "limits": {"memory": "2Gi"},
        }
    for assets in definitions.assets or ():
        assert isinstance(assets, dg.AssetsDefinition)
        assert assets.op.tags.keys() == {"dagster-k8s/config", "dagster-celery/queue"}
    assert run_tags.of_run(make_spec()) == {}


@pytest.mark.parametrize(
    ("declared", "tags"),
    [
        ({"memory": "16Gi"}, {"ecs/memory": "16384"}),
        ({"memory": "500Mi"}, {"ecs/memory": "500"}),
        ({"cpu": 4}, {"ecs/cpu": "4096"}),
        ({}, {}),
    ],
)
def test_what_is_not_declared_is_left_to_the_launcher(
    declared: dict[str, Any], tags: dict[str, str], make_spec: MakeSpec
) -> None:
    found = run_tags.of_run(make_spec(resources=declared))
    assert {key: tag for key, tag in found.items() if key.startswith("ecs/")} == tags
    limits = get_user_defined_k8s_config(found).container_config.get("resources", {})
    assert set(limits.get("limits", {})) == {"memory"} & declared.keys()
