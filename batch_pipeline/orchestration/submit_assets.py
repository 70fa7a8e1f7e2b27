"""The assets up to submission: input, pilot, batches at the API. No run is held by any of them."""

# Annotations are not postponed here: Dagster refuses a `context` annotated with a string.

from collections.abc import Iterator
from typing import Any

import dagster as dg

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow import steps as flow
from batch_pipeline.flow.gates import breaker
from batch_pipeline.flow.status import alerts, retirement, warnings
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import approvals
from batch_pipeline.ledger.admission import Waiting
from batch_pipeline.orchestration import calling, metadata, standing, stations
from batch_pipeline.orchestration.names import (
    APPROVE_TAG,
    INPUT_DATASET,
    PILOT_GATE,
    PILOT_SAMPLE,
    SUBMITTED_BATCHES,
    asset_key,
)
from batch_pipeline.orchestration.partitioning import Partitions
from batch_pipeline.orchestration.resources import PipelineResource
from batch_pipeline.reporting.wording import usd


def build_submit_assets(spec: JobSpec, partitions: Partitions) -> list[dg.AssetsDefinition]:
    return [
        _input_dataset(spec, partitions),
        _pilot_sample(spec, partitions),
        _submitted_batches(spec, partitions),
    ]


def _input_dataset(spec: JobSpec, partitions: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(spec.name, INPUT_DATASET),
        deps=[dg.AssetKey.from_user_string(key) for key in spec.input.upstream],
        partitions_def=partitions,
        group_name=spec.name,
        kinds={"python", "parquet"},
        description=metadata.describe_job(spec),
        retry_policy=stations.PATIENCE,
    )
    def input_dataset(
        context: dg.AssetExecutionContext, batch_pipeline: PipelineResource
    ) -> dg.MaterializeResult[Any]:
        with stations.at_work(context, batch_pipeline) as pipeline:
            night = stations.open_night(context, pipeline, spec, INPUT_DATASET)
            retires = retirement.notice(spec)
            start = stations.start_of(context.run)
            taken = flow.take_input(pipeline, spec, night, again=True, start=start)
        context.log.info("%s: %s", context.partition_key, taken.note)
        if retires is not None:
            context.log.warning("%s: %s", spec.name, retires)
        return dg.MaterializeResult(metadata=metadata.of_input(spec, taken, retires))

    return input_dataset


def _pilot_sample(spec: JobSpec, partitions: Partitions) -> dg.AssetsDefinition:
    key = asset_key(spec.name, PILOT_SAMPLE)
    check = dg.AssetCheckSpec(
        PILOT_GATE,
        asset=key,
        description=(
            f"At most {spec.pilot.max_error_rate:.1%} of the sample may fail and "
            f"{spec.pilot.max_truncated_rate:.1%} be cut off{_projected_limit(spec)}; while it "
            "fails, the rest of the night is not sent."
        ),
    )

    # A multi-asset of one, because only those may leave a check without a result: while a pilot is
    # at the API there is no verdict.
    @dg.multi_asset(
        name=f"{spec.name}__{PILOT_SAMPLE}",
        specs=[
            dg.AssetSpec(
                key,
                deps=[asset_key(spec.name, INPUT_DATASET)],
                group_name=spec.name,
                kinds={"python"},
                description=(
                    "A random sample goes through the whole path first; its verdict gates the "
                    "rest. Good answers of it are kept and not bought again."
                ),
            )
        ],
        check_specs=[check],
        partitions_def=partitions,
        can_subset=True,
    )
    def pilot_sample(
        context: dg.AssetExecutionContext, batch_pipeline: PipelineResource
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
        with stations.at_work(context, batch_pipeline) as pipeline:
            night = stations.open_night(context, pipeline, spec, PILOT_SAMPLE)
            stations.with_snapshot(night)
            try:
                verdict = flow.run_pilot(pipeline, spec, night)
            except ApiFailure as failure:
                verdict = Waiting(f"the API did not answer ({failure})", night.open_requests)
            simulated = pipeline.account.simulated
            state = flow.progress(pipeline, night)
            alerts.look(pipeline, spec.alerts, state)
            given = state.approvals
        if isinstance(verdict, Waiting):
            context.log.info("%s: the pilot waits: %s", context.partition_key, verdict.reason)
            if key in context.selected_asset_keys:
                yield dg.MaterializeResult(metadata=metadata.of_waiting_pilot(verdict))
            return
        if check.key in context.selected_asset_check_keys:
            yield dg.AssetCheckResult(
                check_name=PILOT_GATE,
                passed=verdict["open"],
                severity=dg.AssetCheckSeverity.ERROR,
                metadata=metadata.of_gate(context.partition_key, verdict, given),
            )
        if not approvals.lets_go(verdict, given):
            # After the check's result, which is stored all the same: the asset must not look done.
            raise dg.Failure(closed_gate(context.partition_key, verdict), allow_retries=False)
        if key in context.selected_asset_keys:
            yield dg.MaterializeResult(
                metadata=metadata.of_pilot(verdict, given, simulated=simulated)
            )

    return pilot_sample


def _projected_limit(spec: JobSpec) -> str:
    limit = spec.pilot.max_projected_usd
    return "" if limit is None else f", and the night may be projected to cost {usd(limit)}"


def _submitted_batches(spec: JobSpec, partitions: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(spec.name, SUBMITTED_BATCHES),
        deps=[asset_key(spec.name, PILOT_SAMPLE)],
        partitions_def=partitions,
        group_name=spec.name,
        kinds={"python"},
        description=(
            "The night's batches at the API. Done as soon as they are sent; how far they are shows "
            "in the observations that the sensor adds, and what waits for room goes on its own."
        ),
    )
    def submitted_batches(
        context: dg.AssetExecutionContext, batch_pipeline: PipelineResource
    ) -> dg.MaterializeResult[Any]:
        with stations.at_work(context, batch_pipeline) as pipeline:
            night = stations.open_night(context, pipeline, spec, SUBMITTED_BATCHES)
            stations.with_snapshot(night)
            before = flow.progress(pipeline, night)
            alerts.look(pipeline, spec.alerts, before)
            _refuse_if_closed(spec, before)
            try:
                flow.meet_deadline(pipeline, spec, night)
                waiting = calling.submit_and_call(context, pipeline, spec, night).waiting
            except ApiFailure as failure:
                waiting = Waiting(f"the API did not answer ({failure})", night.open_requests)
            state = flow.progress(pipeline, night)
            alerts.look(pipeline, spec.alerts, state)
        context.log.info("%s: %s", context.partition_key, state.describe())
        if waiting.reason is not None:
            context.log.info("%s: %s", context.partition_key, metadata.waits(waiting))
        for warning in warnings.of(state, spec.alerts):
            context.log.warning("%s: %s", context.partition_key, warning.message)
        found = metadata.of_submission(state, waiting.reason, spec.alerts)
        return dg.MaterializeResult(metadata=found)

    return submitted_batches


def _refuse_if_closed(spec: JobSpec, state: Progress) -> None:
    """The gates hold for a run of the submission alone too, where no check has a say."""
    verdict = standing.verdict_of(state)
    if verdict is not None and not approvals.lets_go(verdict, state.approvals):
        raise dg.Failure(closed_gate(state.night.partition, verdict), allow_retries=False)
    tripped = state.breaker(spec.alerts)
    if tripped is not None and state.waiting:
        error = breaker.closed_error(state.night, tripped, state.waiting)
        raise dg.Failure(
            f"{error}\nUnder Dagster: launch it with the run tag `{APPROVE_TAG}` = `breaker: why`.",
            allow_retries=False,
        )


def closed_gate(partition: str, verdict: dict[str, Any]) -> str:
    """What a person reads who finds the gate closed."""
    examples = "".join(f"\n- {example}" for example in verdict["examples"])
    return (
        f"{partition}: the pilot's gate is closed: {'; '.join(verdict['reasons'])}. "
        f"{verdict['sample']:,} requests were tried, nothing else was sent.{examples}\n"
        "Correct the prompt, the data or the limits under `pilot`, then launch the night again: "
        "good answers are kept. Or let it go as it is: launch it with the run tag "
        f"`{APPROVE_TAG}` = `pilot: why`."
    )
