"""What the tests of the process pool have done in other processes: quick to import there."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.process_pool import map_in_processes


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def fail_at(number: int, bad: tuple[int, ...]) -> int:
    if number in bad:
        raise InputDataError(f"mistake {number}")
    return number


def die(_number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(folder: Path, _number: int) -> None:
    """Writes down its process, and stays."""
    (folder / str(os.getpid())).touch()
    signal.pause()


def square_into(path: Path) -> None:
    """Writes down what is found, and beside it what was logged."""
    logging.basicConfig(filename=path.with_suffix(".log"), level=logging.INFO)
    path.write_text(str(list(map_in_processes(square, [(3,)], 2))))
