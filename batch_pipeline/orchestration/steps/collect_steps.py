"""What the step from the results on does: materializes once a night is complete, else skips."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from batch_pipeline import safe_text
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow import steps
from batch_pipeline.flow.costs import cost_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import dead_letters, examples
from batch_pipeline.flow.status import account_state, alerts
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.nights import Night
from batch_pipeline.orchestration.asset_metadata import (
    answers_table,
    four_answers,
    progress_metadata,
    results_metadata,
)
from batch_pipeline.orchestration.checks import night_checks
from batch_pipeline.orchestration.names import (
    COLLECTED_RESULTS,
    COST_REPORT,
    DEAD_LETTER,
    FOLLOW_UP_TAG,
    SUBMITTED_BATCHES,
    asset_key,
)
from batch_pipeline.orchestration.resources import PipelineResource
from batch_pipeline.orchestration.steps import asset_steps, step_partitions


def run(
    context: dg.AssetExecutionContext, resource: PipelineResource, spec: JobSpec
) -> Iterator[step_partitions.Event]:
    """What the step of the three assets comes to."""
    yield from step_partitions.results(context, resource, spec, [collect_night])


def collect_night(
    context: dg.AssetExecutionContext, pipeline: Pipeline, spec: JobSpec, partition: str
) -> Iterator[step_partitions.Result]:
    night = asset_steps.open_night(context, pipeline, spec, COLLECTED_RESULTS, partition)
    state = _collect(context, pipeline, spec, night)
    if not state.complete:
        _say_what_follows(context, spec, state)
        return
    written = cost_report.write_report(pipeline, spec, night)
    groups = dead_letters.summarize(pipeline, spec.name, partition)
    rows = examples.count_rows(pipeline, spec.name, partition)
    checked = list(night_checks.of_night(spec, state, rows, groups, written))
    found = {
        COLLECTED_RESULTS: answers_table.below_headline(
            results_metadata.of_results(pipeline, state),
            answers_table.of_night(pipeline, spec, partition),
        ),
        DEAD_LETTER: results_metadata.of_dead_letters(pipeline, state, groups),
        COST_REPORT: {
            **four_answers.of_night(spec, state, checked, written),
            **results_metadata.of_report(pipeline, state, written),
        },
    }
    for name, values in found.items():
        yield dg.MaterializeResult(asset_key=asset_key(spec.name, name), metadata=values)
    for each in checked:
        yield each.result(spec.name, partition)


def _say_what_follows(context: dg.AssetExecutionContext, spec: JobSpec, state: Progress) -> None:
    """Tell a run of all assets what happens by itself, in its log and as an event of results."""
    night, where = state.night.partition, progress_metadata.headline(state)
    follows = progress_metadata.what_follows(spec.name, state)
    asset_steps.log_of(context).info(
        "%s: nothing is materialized yet: %s. %s", night, where, follows
    )
    key = asset_key(spec.name, COLLECTED_RESULTS)
    if FOLLOW_UP_TAG not in context.run.tags and key in context.selected_asset_keys:
        context.log_event(
            dg.AssetObservation(
                asset_key=key,
                partition=night,
                description=safe_text.one_line(f"not yet: {where}. {follows}"),
                metadata={"what_follows": follows},
            )
        )


def _collect(
    context: dg.AssetExecutionContext, pipeline: Pipeline, spec: JobSpec, night: Night
) -> Progress:
    """Collect what has ended, and observe it on `submitted_batches`, which shows the progress."""
    if night.snapshot_id is None:
        asset_steps.log_of(context).info("%s: nothing was submitted", night.partition)
        return steps.progress(pipeline, night)
    poll(context, pipeline, night)
    collected = steps.collect_ended(pipeline, spec, night)
    state = steps.finish(pipeline, night)
    alerts.look(pipeline, spec.alerts, state)
    if collected:
        context.log_event(
            dg.AssetObservation(
                asset_key=asset_key(spec.name, SUBMITTED_BATCHES),
                partition=night.partition,
                description=progress_metadata.headline(state),
                metadata=progress_metadata.of_submission(
                    state, None, spec.alerts, account_state.look(pipeline, state.night.owner)
                ),
            )
        )
    return state


def poll(context: dg.AssetExecutionContext, pipeline: Pipeline, night: Night) -> None:
    """See which batches have ended; what is known to have ended can be fetched without an answer
    too."""
    try:
        steps.poll_accounts(pipeline, night.owner, night.sent_by)
    except ApiFailure as failure:
        asset_steps.log_of(context).warning("the API did not answer a poll (%s)", failure)
