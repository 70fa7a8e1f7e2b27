"""Programs that work without pandas: Arrow imports it otherwise, with the first value it is given.

It looks whether a value is one of pandas' own. That takes 0.2 seconds and 44 MB of each process,
and nothing here makes such values. Only for processes that run nobody else's code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _Absent(MetaPathFinder):
    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not used in this program", name=fullname)


def work_without_pandas() -> None:
    """Make pandas look as if it were not installed, for the rest of this process."""
    if not any(isinstance(finder, _Absent) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Absent())
