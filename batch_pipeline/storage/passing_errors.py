"""What an object store's error says: whether it passes, and whether credentials have ended.

Belongs here: how S3, GCS and Azure say so, and the libraries that speak with them. What is done
about it is in `patient_filesystem`.
"""

from __future__ import annotations

import socket

from batch_pipeline.errors import causes

_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
# Error codes of S3 that do not say by their HTTP status that they pass.
_PASSING = {"OperationAborted", "RequestTimeout", "SlowDown", "Throttling", "RequestLimitExceeded"}
# What S3 says of credentials that have ended.
_ENDED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "RequestExpired",
    "TokenRefreshRequired",
}
# Names of classes, since the libraries of stores are optional and import slowly: botocore and
# aiohttp, requests (gcsfs), azure.
_PASSING_CLASSES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "CredentialRetrievalError",
    "HTTPClientError",
    "IncompleteRead",
    "MetadataRetrievalError",
    "ResponseParserError",
    "ServiceRequestError",
    "ServiceResponseError",
    "Timeout",
}


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later: the store is busy, failing or out of reach."""
    if isinstance(error, FileNotFoundError | FileExistsError | IsADirectoryError):
        return False
    return any(_passes(cause) for cause in causes(error))


def credentials_ended(error: BaseException) -> bool:
    """Whether the store says that the credentials of the call have ended."""
    return any(_code(cause) in _ENDED for cause in causes(error))


def gives_no_reason(error: BaseException) -> bool:
    """Whether S3 refused a HEAD request, whose answer has no body to say why: credentials that have
    ended are among the reasons."""
    return any(_code(cause) == "400" for cause in causes(error))


def _passes(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    status = _status(error)
    if status is not None:
        return status in _PASSING_STATUS or _code(error) in _PASSING
    return any(base.__name__ in _PASSING_CLASSES for base in type(error).__mro__)


def _code(error: BaseException) -> str:
    """The code in botocore's answer, empty where there is none."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _status(error: BaseException) -> int | None:
    """The HTTP status that botocore, gcsfs or azure tell."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        told = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        told = getattr(error, "code", None) or getattr(error, "status_code", None)
    return int(told) if isinstance(told, int) or str(told).isdecimal() else None
