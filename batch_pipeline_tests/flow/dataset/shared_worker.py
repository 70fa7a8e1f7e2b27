"""One worker of an input that several read, as a process of its own.

Its arguments are home, ledger and input; it says when it is ready, begins once it is told to, and
says how many pieces it has prepared.
"""

from __future__ import annotations

import sys

from batch_pipeline.flow import night_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import nights
from batch_pipeline_tests.support import PARTITION, job, settings


def main() -> None:
    home, ledger_url, source = sys.argv[1:]
    with Pipeline(settings(home, ledger_url=ledger_url, workers=1)) as pipeline:
        with pipeline.ledger.read() as connection:
            night = nights.find_night(connection, "review", PARTITION, "a")
        assert night is not None
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        prepared = night_input.read_share(pipeline, job(source, spread=2), night)
        sys.stdout.write(f"{prepared}\n")


if __name__ == "__main__":
    main()
