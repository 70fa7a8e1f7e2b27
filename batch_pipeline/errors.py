"""The errors whose message is meant for the user.

    BatchPipelineError                exit code 1, "failed"
    ├─ DeclarationError               exit code 2, "invalid_declaration"
    ├─ UsageError                     exit code 2, "usage"
    │  └─ NoCredentialsError          exit code 2, "usage"
    ├─ InputDataError                 exit code 1, "invalid_input_data"
    ├─ GateClosedError                exit code 3, "gate_closed"
    ├─ LedgerError                    exit code 1, "ledger"
    │  └─ NightChangedError           flow/results/results_folder.py
    ├─ StorageError                   exit code 1, "storage"
    ├─ AccountError                   exit code 1, "account"
    │  └─ AccountPausedError          exit code 4, "account"
    ├─ ApiError                       exit code 1, "api"
    │  ├─ ApiUnavailableError         exit code 1, "api"
    │  └─ ResultsIncompleteError      exit code 1, "results_incomplete"; judging/odd_lines.py
    └─ WorkerDiedError                flow/dataset/process_pool.py

A message says what happened, to which job, partition and item, and what to do. Each class has the
exit code and the `error.code` of the command line's JSON; a subclass without its own has those of
its base.

Exceptions that never reach the user as they are: `api.protocol.ApiFailure` (a call without a
usable answer; the flow decides what it means), `jobs.yaml_files.yaml_lines.YamlProblem`,
`flow.dataset.reading.row_json.CellProblem`, `flow.concurrency.StoppedError`. A bug is none of
these: it surfaces as Python's own exception, with a trace.
"""

from __future__ import annotations

from collections.abc import Iterator

from batch_pipeline import safe_text


class BatchPipelineError(Exception):
    """Base of every error whose message is meant for the user.

    Messages quote data and other libraries: `str` has them as they may be shown.
    """

    exit_code = 1
    code = "failed"

    def __str__(self) -> str:
        return safe_text.lines(super().__str__())


class DeclarationError(BatchPipelineError):
    """A job declaration is invalid: an unknown key, a wrong type, a missing file."""

    exit_code = 2
    code = "invalid_declaration"

    def __str__(self) -> str:
        # One problem a line, each beginning with file and line for editors that go there.
        return "\n".join(map(safe_text.one_line, Exception.__str__(self).split("\n")))


class UsageError(BatchPipelineError):
    """Command or environment are wrong: an unknown job or partition, no key, a bad setting."""

    exit_code = 2
    code = "usage"


class NoCredentialsError(UsageError):
    """The environment has no credentials for the API; some commands can do without."""


class InputDataError(BatchPipelineError):
    """The night's input cannot be used as a whole; nothing was sent."""

    code = "invalid_input_data"


class GateClosedError(BatchPipelineError):
    """Pilot, circuit breaker or budget stopped the night before more money was spent."""

    exit_code = 3
    code = "gate_closed"


class LedgerError(BatchPipelineError):
    """The ledger cannot be used: it has another schema version, or does not hold what it should."""

    code = "ledger"


class StorageError(BatchPipelineError):
    """Home or ledger cannot be written now: disk full, read-only, database not reachable."""

    code = "storage"


class AccountError(BatchPipelineError):
    """The API refuses this account as a whole: credentials, billing, or the wrong account."""

    code = "account"


class AccountPausedError(AccountError):
    """The API refuses to work for this account now: no credit, a spend limit, an account on hold.

    The night goes on where it stands once the account is in order.
    """

    exit_code = 4


class ApiError(BatchPipelineError):
    """The API gave no usable answer to a request that costs nothing: a poll or a download."""

    code = "api"


class ApiUnavailableError(ApiError):
    """The API cannot be reached, or fails: waiting for it helps."""


def causes(error: BaseException, *, implicit: bool = False) -> Iterator[BaseException]:
    """An error, then the errors that it was raised from, the latest first.

    `implicit` adds errors that were being handled when the next one was raised without `from`.
    """
    known: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in known:
        known.add(id(cause))
        yield cause
        cause = cause.__cause__ or (cause.__context__ if implicit else None)
