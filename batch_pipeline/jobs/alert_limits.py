"""The limits of a job's alerts, without the rest of its declaration: for what looks only.

`spec.AlertsSpec` is what a job declares, checked; its values are these. Reading them alone costs a
tenth of loading the job.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol


class AlertLimits(Protocol):
    """What is judged by: the fields of `spec.AlertsSpec`."""

    @property
    def error_rate(self) -> float: ...
    @property
    def after_items(self) -> int: ...
    @property
    def dead_letter_rate(self) -> float: ...
    @property
    def max_usd_per_document(self) -> Decimal | None: ...
    @property
    def on_complete(self) -> bool: ...


@dataclass(frozen=True)
class DeclaredAlerts:
    """The same as plain values; what is not declared has the default of `spec.AlertsSpec`."""

    error_rate: float = 0.10
    after_items: int = 50
    dead_letter_rate: float = 0.05
    max_usd_per_document: Decimal | None = None
    on_complete: bool = False


def of_jobs(jobs_dir: Path) -> dict[str, AlertLimits]:
    """What each job of the folder declares under `alerts`; those that cannot be read are left out.

    It must not fail because of a declaration that it can do without.
    """
    import yaml  # noqa: PLC0415  # where there are no jobs, nothing is read

    found: dict[str, AlertLimits] = {}
    for file in sorted(jobs_dir.glob("*/defs.yaml")):
        try:
            declared = yaml.safe_load(file.read_bytes())
            found[file.parent.name] = _read(declared["attributes"].get("alerts") or {})
        except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError, ValueError):
            continue
    return found


def _read(declared: dict[str, Any]) -> DeclaredAlerts:
    values = dict(declared)
    if values.get("max_usd_per_document") is not None:
        values["max_usd_per_document"] = Decimal(str(values["max_usd_per_document"]))
    return DeclaredAlerts(**values)
