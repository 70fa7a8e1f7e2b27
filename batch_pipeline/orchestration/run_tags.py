"""What a job's runs and steps are tagged with, for run launchers and executors to read."""

from __future__ import annotations

import json

from batch_pipeline.jobs.spec import JobSpec

# Namespaces of tags that executors read of steps, and run launchers of runs.
_OF_EXECUTORS = ("dagster-k8s/", "dagster-celery/")


def of_run(spec: JobSpec) -> dict[str, str]:
    """What a job's runs are tagged with for the run launcher: its `resources`, and its `run_tags`,
    which go before them."""
    return {**_resources(spec), **spec.run_tags}


def of_step(spec: JobSpec) -> dict[str, str]:
    """What a job's steps are tagged with, for executors that start each in a place of its own."""
    return {key: tag for key, tag in of_run(spec).items() if key.startswith(_OF_EXECUTORS)}


def _resources(spec: JobSpec) -> dict[str, str]:
    """A job's `resources` as the launchers of Kubernetes and ECS read them.

    Memory is what Kubernetes keeps for a container and the most that it may have; cores are kept
    for it, and it may have more where others leave them.
    """
    declared = spec.resources
    cpu, memory = declared.cpu, declared.memory
    requests = {
        **({} if cpu is None else {"cpu": f"{cpu:g}"}),
        **({} if memory is None else {"memory": memory}),
    }
    limits = {} if memory is None else {"limits": {"memory": memory}}
    if not requests:
        return {}
    container = {"resources": {"requests": requests, **limits}}
    return {
        "dagster-k8s/config": json.dumps({"container_config": container}),
        # In units of 1/1024 of a core, and in MiB.
        **({} if cpu is None else {"ecs/cpu": str(round(cpu * 1024))}),
        **({} if memory is None else {"ecs/memory": str(declared.memory_mib)}),
    }
