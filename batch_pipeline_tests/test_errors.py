"""The tree at the head of `errors.py` names every error that reaches the user."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import batch_pipeline
from batch_pipeline import errors
from batch_pipeline.errors import BatchPipelineError


def subclasses(error: type[BatchPipelineError]) -> Iterator[type[BatchPipelineError]]:
    yield error
    for each in error.__subclasses__():
        yield from subclasses(each)


def test_the_tree_is_complete() -> None:
    for module in pkgutil.walk_packages(batch_pipeline.__path__, "batch_pipeline."):
        if not module.name.startswith(("batch_pipeline.defs", "batch_pipeline.simulator")):
            importlib.import_module(module.name)
    found = set(subclasses(BatchPipelineError))
    lines = re.findall(r"^[ │├└─]+(\w+Error) (.*)$", str(errors.__doc__), re.MULTILINE)
    tree = dict(lines)
    assert set(tree) == {error.__name__ for error in found}
    for error in found:
        told = tree[error.__name__]
        if "code" in vars(error):
            assert f'exit code {error.exit_code}, "{error.code}"' in told
        if error.__module__ != "batch_pipeline.errors":
            assert error.__module__.replace(".", "/").endswith(told.split()[-1].removesuffix(".py"))
