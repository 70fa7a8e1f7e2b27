"""All benchmarks, one after the other: `python -m benchmarks [--quick]`."""

from __future__ import annotations

import subprocess
import sys

ALL = (
    "submit", "filters", "collect", "memory", "poll", "flow", "ledger", "realtime", "documents",
    "small_run",
)  # fmt: skip


def main() -> int:
    commands = [[sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]] for name in ALL]
    return max(subprocess.run(command, check=False).returncode for command in commands)


if __name__ == "__main__":
    sys.exit(main())
