"""Assets whose work is spread over several steps of Dagster's engine, for jobs with `spread: N`.

Such an asset is a graph of three ops: `begin` prepares the work and decides how many shares it has,
`share` runs once for each of them, in parallel where the executor runs steps in parallel, and `end`
does what is left and materializes the asset. Shares have only the ledger and the home in common: a
share claims in the ledger what it works on, so that any share may die, and no value is handed from
step to step.
"""

# Annotations are not postponed here: Dagster reads those of ops.

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.dagster_partitions import Partitions, backfill_policy
from batch_pipeline.orchestration.names import Part, op_name
from batch_pipeline.orchestration.resources import PipelineResource

# A share whose process died is started again by executors that notice it.
AGAIN = dg.RetryPolicy(max_retries=3, delay=10)


def build(
    spec: JobSpec,
    partitions: Partitions,
    work: str,
    assets: Sequence[dg.AssetSpec],
    checks: Sequence[dg.AssetCheckSpec],
    tags: dict[str, str],
) -> dg.AssetsDefinition:
    """The assets that a piece of work makes, as a graph; each may be left out.

    `tags` are those of ops, by which executors give steps their resources.
    """
    own = {asset.key for asset in assets}
    deps = {dep.asset_key for asset in assets for dep in asset.deps} - own
    ins = {key.to_python_identifier(): key for key in sorted(deps)}
    outs = {asset.key.to_python_identifier(): asset.key for asset in assets}
    # As Dagster names the outputs of checks.
    names = [*outs, *(f"{c.asset_key.to_python_identifier()}_{c.name}" for c in checks)]
    common: dict[str, Any] = {"pool": spec.pool, "tags": tags}

    @dg.op(
        name=op_name(spec.name, work, Part.BEGIN),
        ins={name: dg.In(dg.Nothing) for name in ins},
        out=dg.DynamicOut(dg.Nothing),
        **common,
    )
    def begin(context: dg.OpExecutionContext, batch_pipeline: PipelineResource) -> Iterator[Any]:
        from batch_pipeline.orchestration.steps import spread_steps  # noqa: PLC0415  # the flow

        yield from spread_steps.begin(_asset_context(context), batch_pipeline, spec, work)

    @dg.op(
        name=op_name(spec.name, work, Part.SHARE),
        ins={"begun": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing),
        retry_policy=AGAIN,
        **common,
    )
    def share(context: dg.OpExecutionContext, batch_pipeline: PipelineResource) -> None:
        from batch_pipeline.orchestration.steps import spread_steps  # noqa: PLC0415  # the flow

        spread_steps.share(_asset_context(context), batch_pipeline, spec, work)

    @dg.op(
        name=op_name(spec.name, work, Part.END),
        ins={"shares": dg.In(dg.Nothing)},
        out={name: dg.Out(dg.Nothing, is_required=False) for name in names},
        **common,
    )
    def end(context: dg.OpExecutionContext, batch_pipeline: PipelineResource) -> Iterator[Any]:
        from batch_pipeline.orchestration.steps import spread_steps  # noqa: PLC0415  # the flow

        asset_context = _asset_context(context)
        for result in spread_steps.end(asset_context, batch_pipeline, spec, work):
            if not isinstance(result, dg.MaterializeResult):
                yield result
                continue
            key = result.asset_key
            assert key is not None, "each result names its asset"
            if result.data_version is not None:
                context.set_data_version(key, result.data_version)
            yield dg.Output(None, key.to_python_identifier(), metadata=result.metadata)

    @dg.graph(
        name=op_name(spec.name, work),
        ins={name: dg.GraphIn() for name in ins},
        out={name: dg.GraphOut() for name in names},
    )
    def spread(**inputs: Any) -> Any:
        made = end(begin(**inputs).map(share).collect())
        return made if len(names) == 1 else {name: getattr(made, name) for name in names}

    made = dg.AssetsDefinition.from_graph(
        spread,
        keys_by_input_name=ins,
        keys_by_output_name=outs,
        internal_asset_deps={
            asset.key.to_python_identifier(): {dep.asset_key for dep in asset.deps}
            for asset in assets
        },
        check_specs=list(checks),
        partitions_def=partitions,
        backfill_policy=backfill_policy(spec),
        can_subset=len(assets) > 1,
    )
    declared = {asset.key: asset for asset in assets}
    return made.map_asset_specs(lambda found: _as_declared(found, declared[found.key]))


def _as_declared(made: dg.AssetSpec, declared: dg.AssetSpec) -> dg.AssetSpec:
    """A graph's asset with the declared attributes; the graph gives only key, deps, partitions."""
    return made.replace_attributes(
        description=declared.description,
        metadata=declared.metadata,
        skippable=declared.skippable,
        group_name=declared.group_name,
        automation_condition=declared.automation_condition,
        owners=declared.owners,
        tags=declared.tags,
        freshness_policy=declared.freshness_policy,
    )


def _asset_context(_: dg.OpExecutionContext) -> dg.AssetExecutionContext:
    """The context of the step as that of its asset: it knows partitions and the selection."""
    return dg.AssetExecutionContext.get()
