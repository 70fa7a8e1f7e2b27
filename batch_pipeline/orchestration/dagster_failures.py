"""Turns errors of steps and ticks into errors that Dagster may store: clear and without secrets."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import ApiError, BatchPipelineError, StorageError
from batch_pipeline.safe_text import lines, redacted


@contextmanager
def without_secrets() -> Iterator[None]:
    """Replace an error that holds a secret: Dagster stores errors with trace and causes."""
    try:
        yield
    except Exception as error:
        told = "".join(traceback.format_exception(error))
        if redacted(told) == told:
            raise
        shown = lines(f"{type(error).__name__}: {error}")
        raise dg.Failure(shown, metadata={"trace": lines(told)}) from None


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn errors for users into a Failure with their message.

    Errors of API and storage are retried where the asset has retries.
    """
    with without_secrets():
        try:
            yield
        except BatchPipelineError as error:
            raise dg.Failure(str(error), allow_retries=may_pass(error)) from None
        except ApiFailure as failure:
            message = f"The API did not answer: {failure}"
            raise dg.Failure(message, allow_retries=True) from None


def may_pass(error: Exception) -> bool:
    """Whether a step is retried after an error, if its asset has retries.

    Errors of input or declaration are not: they do not pass by themselves.
    """
    return not isinstance(error, BatchPipelineError) or isinstance(error, ApiError | StorageError)
