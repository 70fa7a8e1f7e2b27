"""`BatchResultsIOManager`: gives a job's published results to assets downstream of them.

Belongs here: what an input of a Dagster asset stands for. Reading itself is in `reading`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import orjson

from batch_pipeline.errors import UsageError
from batch_pipeline.orchestration.names import COLLECTED_RESULTS, COST_REPORT, DEAD_LETTER
from batch_pipeline.settings import home_from_environment

if TYPE_CHECKING:
    from batch_pipeline.reading.datasets import Incomplete

IO_MANAGER_KEY = "batch_results"

_DATASETS = {COLLECTED_RESULTS: "results", DEAD_LETTER: "dead_letter"}
# By module and name: Polars need not be installed, and pandas is imported by whom it is for.
_FORMS = {
    ("pandas", "DataFrame"): "pandas",
    ("polars", "DataFrame"): "polars",
    ("polars", "LazyFrame"): "lazy",
    ("pyarrow", "Table"): "arrow",
    ("pyarrow", "RecordBatchReader"): "batches",
}


class BatchResultsIOManager(dg.ConfigurableIOManager):
    """Loads `collected_results`, `dead_letter` and `cost_report` of a job from its home.

    The annotation of the input decides on the form: a pandas DataFrame (also without one), a Polars
    DataFrame or LazyFrame, a pyarrow Table or RecordBatchReader; a `cost_report` is a dict. Several
    partitions are one frame, with the column `partition`. Metadata of the input: `columns`,
    `dataset` (`typed` for the typed dataset) and `incomplete`, as of `read_results`. `home` is
    that of the environment unless set.
    """

    home: str | None = None

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:  # noqa: ARG002
        """Refuse a value: results come into the home by the pipeline alone."""
        raise UsageError(
            f"{context.asset_key.to_user_string()} uses the IO manager {IO_MANAGER_KEY!r}, which "
            "only loads the results of batch_pipeline's jobs; give the asset another "
            "io_manager_key, or return a MaterializeResult without a value"
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """The rows of the partitions that the input is mapped to.

        Raises UsageError where one of them is not complete. Where the mapping names all partitions
        of the job, those that are not complete are left out.
        """
        job, asset = _job_and_asset(context.asset_key)
        home = self.home or home_from_environment(relative_allowed=False)
        wanted = _partitions(context)
        if asset == COST_REPORT:
            return _reports(home, job, wanted)
        # Arrow is heavy, and few processes read results.
        from batch_pipeline.reading import frames  # noqa: PLC0415

        metadata = context.definition_metadata or {}
        form = _form(context)
        columns = _plain(metadata.get("columns"))
        dataset = str(_plain(metadata.get("dataset")) or _DATASETS[asset])
        incomplete: Incomplete | None = _plain(metadata.get("incomplete"))
        if form == "lazy":
            return frames.scan_results(
                job, wanted, columns, dataset=dataset, incomplete=incomplete, home=home
            )
        return frames.read_results(
            job, wanted, columns, as_=form, dataset=dataset, incomplete=incomplete, home=home
        )


def _job_and_asset(key: dg.AssetKey) -> tuple[str, str]:
    """Job and asset of a key, whatever a team has put before them."""
    known = (*_DATASETS, COST_REPORT)
    if len(key.path) < 2 or key.path[-1] not in known:
        raise UsageError(
            f"{key.to_user_string()} holds no value to load; of a job these do: "
            f"{', '.join(f'<job>/{name}' for name in known)}"
        )
    return key.path[-2], key.path[-1]


def _partitions(context: dg.InputContext) -> Sequence[str] | None:
    """The partitions of the input; None: all that there are."""
    if not context.has_asset_partitions:
        return None
    keys = list(context.asset_partition_keys)
    if len(keys) == 1:
        return keys
    every = context.asset_partitions_def.get_partition_keys(
        dynamic_partitions_store=context.instance
    )
    return None if len(keys) == len(every) else keys


def _form(context: dg.InputContext) -> Any:
    asked = context.dagster_type.typing_type
    if asked in (Any, None, type(None)):
        return "pandas"
    name = getattr(asked, "__name__", str(asked))
    form = _FORMS.get((asked.__module__.partition(".")[0], name))
    if form is None:
        raise UsageError(
            f"an input of {context.asset_key.to_user_string()} cannot be a {name}; annotate it as "
            "a pandas or Polars DataFrame, a Polars LazyFrame, a pyarrow Table or RecordBatchReader"
        )
    return form


def _plain(value: Any) -> Any:
    """A value of metadata as it was given; Dagster wraps lists and texts."""
    return value.value if isinstance(value, dg.MetadataValue) else value


def _reports(home: str, job: str, wanted: Sequence[str] | None) -> Any:
    """The cost report of a partition; those of several by partition."""
    from batch_pipeline.flow import paths  # noqa: PLC0415  # as above
    from batch_pipeline.storage.files import Files  # noqa: PLC0415

    files = Files(home)
    if wanted is None:
        found = files.list(f"{job}/reports", ".json")
        wanted = [path.rsplit("/", 1)[-1].removesuffix(".json") for path in found]
        single = False
    else:
        single = len(wanted) == 1
    reports = {}
    for partition in wanted:
        data = files.read(paths.report(job, partition, ".json"))
        if data is None:
            raise UsageError(
                f"{job} {partition} has no cost report under {files.uri(job)}; materialize "
                f"{job}/{COST_REPORT} first"
            )
        reports[partition] = orjson.loads(data)
    return next(iter(reports.values())) if single else reports


# One object for all jobs: merging definitions accepts a key twice only for the same object.
DEFAULT_IO_MANAGER = BatchResultsIOManager()
