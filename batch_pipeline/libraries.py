"""What libraries do at their start that nothing here needs, and how programs of ours leave it out.

Only for processes that run nobody else's code, so that nobody misses anything. What the
environment says about a library holds.

- Arrow imports pandas with the first value it is given, to see whether it is one of pandas' own:
  0.2 seconds and 44 MB of each process.
- OpenBLAS starts a thread a core with numpy, which spin for a tenth of a second: there is no
  linear algebra here.
- pydantic looks through all that is installed for plugins of its own: 0.1 seconds.
- The SDK loads aiohttp for a client that is not used, and aiohttp reads the system's certificates
  twice as it loads: 0.1 seconds.
- Python looks for each module of a package under every ending that a module may have, and goes
  through a dozen functions to its compiled code. The SDK has 3,000 modules: 0.13 seconds.
- The C library gives large blocks of memory back as soon as they are free, and the kernel clears
  each page of the next one anew: half of what it takes to send a row of the snapshot.
"""

from __future__ import annotations

import marshal
import os
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import MAGIC_NUMBER, cache_from_source
from types import CodeType, ModuleType

_HEAD = struct.Struct("<4sIII")
_32_BITS = 0xFFFFFFFF
_DEFAULTS = {"OPENBLAS_NUM_THREADS": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}

# glibc keeps blocks up to the size of the largest one that was ever freed (mallopt(3)); to others
# it means nothing. What is read, made and sent is half a megabyte at a time.
_KEPT_BYTES = 1 << 20


class _Absent(MetaPathFinder):
    """Makes a module look as if it were not installed, to one thread or to all."""

    def __init__(self, name: str, thread: int | None = None) -> None:
        self._name, self._thread = name, thread

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> None:
        if fullname == self._name and self._thread in (None, threading.get_ident()):
            raise ModuleNotFoundError(f"{fullname} is not used in this program", name=fullname)


_PANDAS = _Absent("pandas")


def lighten_libraries() -> None:
    """For the rest of this process; before numpy and pydantic are loaded."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if _PANDAS not in sys.meta_path:
        sys.meta_path.insert(0, _PANDAS)
    bytes(_KEPT_BYTES)  # freed at once, and never touched


def _compiled(source: str) -> str:
    """Where a module's compiled code is kept: `cache_from_source`, in a tenth of the time."""
    if sys.pycache_prefix is not None or sys.flags.optimize:
        return cache_from_source(source)
    folder, _, file = source.removesuffix(".py").rpartition("/")
    return f"{folder}/__pycache__/{file}.{sys.implementation.cache_tag}.pyc"


class _Straightforward(SourceFileLoader):
    """Takes a module's compiled code if it is of its source as it is now (PEP 552: by its time and
    size); whatever is otherwise is left to Python."""

    def get_code(self, fullname: str) -> CodeType | None:
        try:
            with open(_compiled(self.path), "rb", buffering=0) as file:  # noqa: PTH123  # quicker
                compiled = file.read()
            status = os.stat(self.path)  # noqa: PTH116  # quicker
        except OSError:
            return super().get_code(fullname)
        known = _HEAD.pack(
            MAGIC_NUMBER, 0, int(status.st_mtime) & _32_BITS, status.st_size & _32_BITS
        )
        if not compiled.startswith(known):
            return super().get_code(fullname)
        code: CodeType = marshal.loads(memoryview(compiled)[_HEAD.size :])  # noqa: S302
        return code


class _Straight(MetaPathFinder):
    """Finds the modules of a package that is all Python source, with one look into each folder."""

    def __init__(self, package: str) -> None:
        self._inside = f"{package}."
        self._folders: dict[str, frozenset[str]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or not fullname.startswith(self._inside) or len(path) != 1:
            return None
        folder = path[0]
        name = fullname.rpartition(".")[2]
        if name in self._names(folder) and "__init__.py" in self._names(f"{folder}/{name}"):
            found, at = [f"{folder}/{name}"], f"{folder}/{name}/__init__.py"
        elif f"{name}.py" in self._names(folder):
            found, at = None, f"{folder}/{name}.py"
        else:
            return None
        spec = ModuleSpec(fullname, _Straightforward(fullname, at), origin=at)
        spec.submodule_search_locations = found
        spec.has_location = True
        spec.cached = _compiled(at)
        return spec

    def _names(self, folder: str) -> frozenset[str]:
        if folder not in self._folders:
            try:
                self._folders[folder] = frozenset(os.listdir(folder))  # noqa: PTH208
            except OSError:
                self._folders[folder] = frozenset()
        return self._folders[folder]


@contextmanager
def loading_lightly(package: str, *, without: str) -> Iterator[None]:
    """Load a package of Python source without a module that it can do without."""
    if _PANDAS not in sys.meta_path:
        # Somebody else's process, where the module may be wanted.
        yield
        return
    finders = [_Absent(without, threading.get_ident()), _Straight(package)]
    # Another list each time: another thread may be going through this one.
    sys.meta_path = [*finders, *sys.meta_path]
    try:
        yield
    finally:
        sys.meta_path = [finder for finder in sys.meta_path if finder not in finders]
