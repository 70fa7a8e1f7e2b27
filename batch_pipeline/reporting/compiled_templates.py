"""Compiled templates, kept where Python keeps the package's compiled modules.

To compile the report's page takes as long as all else that is done for a report. A template that
has changed is compiled anew (Jinja keeps a hash of its source), as it is by another Python or
another Jinja. Run as a program it compiles what there is.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

from jinja2.bccache import Bucket, FileSystemBytecodeCache


class CompiledTemplates(FileSystemBytecodeCache):
    """Written where Python may write its own, and done without elsewhere."""

    def __init__(self) -> None:
        super().__init__(str(Path(cache_from_source(__file__)).parent), "%s.jinja")

    def dump_bytecode(self, bucket: Bucket) -> None:
        if not sys.dont_write_bytecode:
            with suppress(OSError):
                super().dump_bytecode(bucket)


if __name__ == "__main__":
    from batch_pipeline.reporting.report_html import template

    template()
