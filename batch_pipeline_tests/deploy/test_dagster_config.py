"""Instance and values for Kubernetes, checked by Dagster's own config classes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config

from batch_pipeline.orchestration import run_tags
from batch_pipeline_tests.deploy.files import DEPLOY, ROOT, read, snake
from batch_pipeline_tests.support import job

# What the chart puts into the launcher's config by itself.
OF_THE_CHART = {
    "dagster_home": "/opt/dagster/dagster_home",
    "instance_config_map": "dagster-instance",
    "postgres_password_secret": "dagster-postgresql-secret",
    "service_account_name": "dagster",
}


@pytest.fixture
def values() -> dict[str, Any]:
    """The values for Dagster's Helm chart."""
    found: dict[str, Any] = read("helm/values.yaml")
    return found


def _deployment(values: dict[str, Any]) -> dict[str, Any]:
    [found] = values["dagster-user-deployments"]["deployments"]
    return dict(found)


def _container_context(values: dict[str, Any]) -> dict[str, Any]:
    """What the chart hands to runs where `includeConfigInLaunchedRuns` is on."""
    deployment = _deployment(values)
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": True}
    return {
        "image_pull_policy": deployment["image"]["pullPolicy"],
        "env": deployment["env"],
        "env_secrets": [secret["name"] for secret in deployment["envSecrets"]],
        "volumes": deployment["volumes"],
        "volume_mounts": deployment["volumeMounts"],
        "resources": deployment["resources"],
    }


def test_the_instance_is_valid_and_that_of_one_machine_but_for_its_storage() -> None:
    config, _ = dagster_instance_config(str(DEPLOY))
    assert "postgres" in config["storage"]
    alone, _ = dagster_instance_config(str(ROOT))
    for part in ("concurrency", "run_monitoring", "run_retries", "sensors", "python_logs"):
        assert config[part] == alone[part], part


def test_runs_get_what_the_code_server_has(values: dict[str, Any]) -> None:
    context = pytest.importorskip("dagster_k8s.container_context")
    made = context.K8sContainerContext.create_from_config({"k8s": _container_context(values)})
    container = made.run_k8s_config.container_config
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert [source["secret_ref"]["name"] for source in container["env_from"]] == ["batch-pipeline"]
    assert made.run_k8s_config.pod_spec_config["volumes"][0]["name"] == "temporary"


def test_the_launcher_takes_its_config(values: dict[str, Any]) -> None:
    launcher = pytest.importorskip("dagster_k8s").K8sRunLauncher
    given = snake(values["runLauncher"]["config"]["k8sRunLauncher"])
    given["run_k8s_config"] = snake(given["run_k8s_config"])
    result = validate_config(launcher.config_type(), {**OF_THE_CHART, **given})
    assert result.success, result.errors
    # Names that Kubernetes has not are refused here.
    job = pytest.importorskip("dagster_k8s.job")
    pod = job.UserDefinedDagsterK8sConfig.from_dict(given["run_k8s_config"]).pod_spec_config
    assert pod["security_context"]["run_as_non_root"]


def test_the_run_tag_for_a_large_night_is_valid() -> None:
    """As `resources` of a job, which docs/deploy.md names, become one."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    found = re.search(r"`resources: (\{.*?\})`", page)
    assert found is not None
    declared = yaml.safe_load(found[1])
    assert declared == {"cpu": 4, "memory": "16Gi"}
    config = pytest.importorskip("dagster_k8s.job").get_user_defined_k8s_config
    made = config(run_tags.of_run(job("input.jsonl", resources=declared)))
    resources = {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "16Gi"}}
    assert made.container_config["resources"] == resources


def _of_the_page(start: str) -> Any:
    """The YAML in docs/deploy.md that begins with this key."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE)
    [found] = [yaml.safe_load(block) for block in blocks if block.lstrip().startswith(start)]
    return found


def test_the_container_context_of_the_page_is_valid() -> None:
    context = pytest.importorskip("dagster_k8s.container_context")
    [location] = _of_the_page("locations:")["locations"]
    made = context.K8sContainerContext.create_from_config(location["container_context"])
    assert made.run_k8s_config.pod_spec_config["termination_grace_period_seconds"] == 120


def test_the_container_context_for_ecs_is_valid() -> None:
    context = pytest.importorskip("dagster_aws.ecs.container_context")
    made = context.EcsContainerContext.create_from_config(_of_the_page("ecs:"))
    assert made.run_resources["ephemeral_storage"] == 50
    assert "batch-pipeline" in made.get_secrets_dict(None)["ANTHROPIC_API_KEY"]


def test_the_manifest_for_metrics_is_valid_and_runs_as_the_code_server(
    values: dict[str, Any],
) -> None:
    """Names that Kubernetes has not are refused by its client's models."""
    models = pytest.importorskip("dagster_k8s.models")
    kubernetes = pytest.importorskip("kubernetes.client")
    manifest = read("helm/metrics.yaml")
    made = models.k8s_model_from_dict(
        kubernetes.V1Deployment, models.k8s_snake_case_dict(kubernetes.V1Deployment, manifest)
    )
    pod = made.spec.template.spec
    [container] = pod.containers
    deployment = _deployment(values)
    image = deployment["image"]
    assert container.image == f"{image['repository']}:{image['tag']}"
    users = values["dagster-user-deployments"]["serviceAccount"]
    assert pod.service_account_name == users["name"]
    [told] = manifest["spec"]["template"]["spec"]["containers"]
    assert told["securityContext"] == deployment["securityContext"]
    assert {"name": "BATCH_PIPELINE_HOME", "value": container.env[0].value} in deployment["env"]


def test_the_secrets_of_values_are_references(values: dict[str, Any]) -> None:
    names = {variable["name"] for variable in _deployment(values)["env"]}
    secret = {"ANTHROPIC_API_KEY", "BATCH_PIPELINE_LEDGER_URL", "BATCH_PIPELINE_ALERT_URLS"}
    assert not names & secret
    assert "postgresqlPassword" not in values["postgresql"]
