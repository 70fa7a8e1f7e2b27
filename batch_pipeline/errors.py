"""The family of errors that reach a person.

Each message says what happened, to which job, partition and item, and what to do about it. Each
class carries the exit code and the `error.code` of the command line, so that no face of the
pipeline has to translate. Bugs are not part of the family: they surface as what they are.
"""

from __future__ import annotations


class BatchPipelineError(Exception):
    """Base of every error that is meant for the user; exit code 1 unless a class says otherwise."""

    exit_code = 1
    code = "failed"


class DeclarationError(BatchPipelineError):
    """A job declaration is invalid: unknown key, wrong type, missing file."""

    exit_code = 2
    code = "invalid_declaration"


class UsageError(BatchPipelineError):
    """The command or the environment is wrong: unknown job or partition, no key, bad setting."""

    exit_code = 2
    code = "usage"


class InputDataError(BatchPipelineError):
    """The night's input cannot be used as a whole; nothing was sent."""

    code = "invalid_input_data"


class GateClosedError(BatchPipelineError):
    """The pilot (or another gate) stopped the night before more money was spent."""

    exit_code = 3
    code = "gate_closed"


class LedgerError(BatchPipelineError):
    """The ledger cannot be used: a newer schema, or another process broke an assumption."""

    code = "ledger"


class StorageError(BatchPipelineError):
    """Home or ledger cannot be written now: no room, read-only, a database that is gone."""

    code = "storage"


class AccountError(BatchPipelineError):
    """The API refuses this account as a whole: credentials, billing, or the wrong account."""

    code = "account"


class ApiError(BatchPipelineError):
    """The API gave no usable answer where no money is at stake: a poll, a look, a download."""

    code = "api"
