"""What libraries do at their start that nothing here needs, and how programs of ours leave it out.

Only for processes that run nobody else's code, so that nobody misses anything. What the
environment says about a library holds.

- Arrow imports pandas with the first value it is given, to see whether it is one of pandas' own:
  0.2 seconds and 44 MB of each process.
- OpenBLAS starts a thread a core with numpy, which spin for a tenth of a second: there is no
  linear algebra here.
- pydantic looks through all that is installed for plugins of its own: 0.1 seconds.
- Arrow's usual allocator keeps memory for each thread that ever asked for some: a quarter of all
  that a night takes. On Linux it brings another one that is as fast.
- The SDK loads aiohttp for a client that is not used, and aiohttp reads the system's certificates
  twice as it loads: 0.1 seconds.
- The C library gives large blocks of memory back as soon as they are free, and the kernel clears
  each page of the next one anew: half of what it takes to send a row of the snapshot. And it has
  heaps of their own for several threads, each with gaps that no other one fills.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType

_DEFAULTS = {"OPENBLAS_NUM_THREADS": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}
if sys.platform == "linux":
    _DEFAULTS["ARROW_DEFAULT_MEMORY_POOL"] = "jemalloc"

# Of glibc, see mallopt(3): what is read, made, sent and collected is half a megabyte to two at a
# time. It takes the environment's word as it starts, which these are not to overrule.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 4 << 20),
    "MALLOC_TRIM_THRESHOLD_": (-1, 8 << 20),
    "MALLOC_ARENA_MAX": (-8, 1),
}


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
    """For the rest of this process; before numpy, Arrow and pydantic are loaded."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if _PANDAS not in sys.meta_path:
        sys.meta_path.insert(0, _PANDAS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for name, (option, size) in _MALLOC.items():
        if mallopt is not None and name not in os.environ:
            mallopt(option, size)


@contextmanager
def loading_without(module: str) -> Iterator[None]:
    """Load what can do without a module as if it were not installed."""
    if _PANDAS not in sys.meta_path:
        # Somebody else's process, where the module may be wanted.
        yield
        return
    absent = _Absent(module, threading.get_ident())
    # Another list each time: another thread may be going through this one.
    sys.meta_path = [absent, *sys.meta_path]
    try:
        yield
    finally:
        sys.meta_path = [finder for finder in sys.meta_path if finder is not absent]
