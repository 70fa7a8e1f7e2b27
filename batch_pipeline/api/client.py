"""The client of the Message Batches API: the protocol `Api` over the official SDK.

Bodies are streamed and answers are read as bytes: the SDK's typed calls would hold a whole batch in
memory and parse unknown result types as known ones.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

import anthropic
import httpx2
import orjson
from anthropic.types import MessageCountTokensParams

from batch_pipeline import telemetry
from batch_pipeline.api import credentials, tls
from batch_pipeline.api.batches import batch_of, created_of, page_of
from batch_pipeline.api.failures import (
    JSON_BODY,
    betas_header,
    failures,
    is_outage,
    json_of,
    refuses_account,
    refuses_key,
    unreadable,
)
from batch_pipeline.api.messages import AnthropicMessages, open_messages
from batch_pipeline.api.models import parse_model
from batch_pipeline.api.protocol import ApiFailure, BatchInfo, BatchPage, ModelInfo
from batch_pipeline.errors import (
    AccountError,
    AccountPausedError,
    ApiError,
    ApiUnavailableError,
    UsageError,
)
from batch_pipeline.safe_text import get_logger, redacted

if TYPE_CHECKING:
    from batch_pipeline.jobs.accounts.account_specs import AccountSpec

log = get_logger(__name__)

Answered = TypeVar("Answered")

# The header by which the simulator names itself; a URL tells nothing.
SIMULATOR_HEADER = "x-batch-pipeline-simulator"
WORKSPACE_HEADER = "anthropic-workspace-id"
ORGANISATION_HEADER = "anthropic-organization-id"
BATCHES = "/v1/messages/batches"
MODELS = "/v1/models"
DOWNLOAD_CHUNK_BYTES = 1 << 20
# gzip unpacks at most to a thousand times the size.
PACKED_CHUNK_BYTES = 1 << 16
# Pauses before a read is repeated, in seconds. A create is never repeated: it may have been
# accepted.
READ_PAUSES = (0.5, 1.0, 2.0)
# A read that the API wants to be asked again later than this is left to the caller, who says so.
LONGEST_READ_PAUSE = 5.0
# Seconds without a byte of an answer, after which a read has failed.
READ_TIMEOUT = 60.0
CONNECT_TIMEOUT = 10.0


class AnthropicApi:
    """`Api` over the official SDK, which finds credentials and base URL unless they are given, or
    an account of accounts.yaml declares them."""

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        account: AccountSpec | None = None,
    ) -> None:
        if account is not None:
            base_url, credential = account.base_url, credentials.of_account(account)
        else:
            credential = {"api_key": api_key} if api_key else credentials.of_environment()
        arguments: dict[str, Any] = {"base_url": credentials.base_url(base_url), **credential}
        self._arguments = arguments
        self._simulated: bool | None = None
        self._models: Mapping[str, ModelInfo] | None = None
        self.organisation: str | None = None
        self.workspace: str | None = None
        hooks = {"response": [lambda response: self._note_headers(response.headers)]}
        # No client follows a redirect: key and documents would go to another address.
        http_client = anthropic.DefaultHttpxClient(
            event_hooks=hooks, verify=tls.context(), follow_redirects=False
        )
        try:
            self._client = anthropic.Anthropic(
                **arguments,
                # The SDK would sleep as long as `retry-after` says, hours too, without a word.
                max_retries=0,
                timeout=httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
                http_client=http_client,
            )
        except anthropic.AnthropicError as error:
            # A profile that was asked for by name, and cannot be read.
            said = redacted(str(error))
            raise UsageError(f"The credentials for the API cannot be used: {said}") from None
        self._credentials = credentials.source_of(self._client, account)
        declared = account is not None and account.base_url is not None
        self._address_from = "its base_url in accounts.yaml" if declared else credentials.BASE_URL
        credentials.say_if_unencrypted(self._client.base_url)
        # A kept-alive connection that the server has closed meanwhile would turn a create into an
        # unknown outcome, and cost the minutes of a reconciliation. A copy shares the access token.
        self._create_client = self._client.copy(
            max_retries=0,
            timeout=anthropic.DEFAULT_TIMEOUT,
            http_client=anthropic.DefaultHttpxClient(
                event_hooks=hooks,
                verify=tls.context(),
                follow_redirects=False,
                limits=httpx2.Limits(max_keepalive_connections=0),
            ),
        )
        self._probe()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._create_client.close()

    @property
    def simulated(self) -> bool:
        return bool(self._simulated)

    @telemetry.traced("api.create_batch")
    def create_batch(self, body: Iterator[bytes], length: int, betas: Sequence[str]) -> BatchInfo:
        headers = JSON_BODY | {"content-length": str(length)} | betas_header(betas)
        if self._client.credentials is not None:
            # Reads get a new access token where the API refuses the present one. A create cannot:
            # its body can be sent only once, and a refusal of the token would pause the account.
            self.list_batches(None, 1)
        with failures():
            response = self._create_client.post(
                BATCHES, content=body, cast_to=httpx2.Response, options={"headers": headers}
            )
            return created_of(response)

    @telemetry.traced("api.retrieve_batch")
    def retrieve_batch(self, batch_id: str) -> BatchInfo:
        path = f"{BATCHES}/{batch_id}"
        return self._patiently(lambda: batch_of(self._client.get(path, cast_to=httpx2.Response)))

    @telemetry.traced("api.list_batches")
    def list_batches(self, after_id: str | None, limit: int) -> BatchPage:
        query: dict[str, object] = {"limit": limit}
        if after_id is not None:
            query["after_id"] = after_id

        def ask() -> BatchPage:
            response = self._client.get(BATCHES, cast_to=httpx2.Response, options={"params": query})
            return page_of(response)

        return self._patiently(ask)

    @telemetry.traced("api.cancel_batch")
    def cancel_batch(self, batch_id: str) -> BatchInfo:
        path = f"{BATCHES}/{batch_id}/cancel"
        return self._patiently(lambda: batch_of(self._client.post(path, cast_to=httpx2.Response)))

    @contextmanager
    def stream_results(self, batch_id: str) -> Iterator[Iterator[bytes]]:
        # With a response as `cast_to` the SDK returns it unread; the stream class is not used.
        stream: object = self._patiently(
            lambda: self._client.get(
                f"{BATCHES}/{batch_id}/results",
                cast_to=httpx2.Response,
                options={"headers": {"Accept": "application/x-jsonl"}},
                stream=True,
                stream_cls=anthropic.Stream[object],
            )
        )
        response = cast("httpx2.Response", stream)
        with failures():
            try:
                if "html" in response.headers.get("content-type", ""):
                    # A login page, for example. As lines it would count as a whole download.
                    page = "a web page in place of the results"
                    raise ApiFailure(response.status_code, None, None, page)
                if response.headers.get("content-encoding", "").lower() in ("gzip", "x-gzip"):
                    yield _unpacked(response.iter_raw(PACKED_CHUNK_BYTES))
                else:
                    yield response.iter_bytes(DOWNLOAD_CHUNK_BYTES)
            finally:
                response.close()

    @telemetry.traced("api.count_tokens")
    def count_tokens(self, params: bytes, betas: Sequence[str]) -> int:
        # The endpoint refuses parameters that do not change the prompt, such as `max_tokens`.
        known = MessageCountTokensParams.__annotations__
        body = {name: value for name, value in orjson.loads(params).items() if name in known}

        def ask() -> int:
            response = self._client.post(
                "/v1/messages/count_tokens",
                content=orjson.dumps(body),
                cast_to=httpx2.Response,
                options={"headers": JSON_BODY | betas_header(betas)},
            )
            try:
                return int(json_of(response)["input_tokens"])
            except (KeyError, TypeError, ValueError) as error:
                raise unreadable(response) from error

        return self._patiently(ask)

    @telemetry.traced("api.models")
    def models(self) -> Mapping[str, ModelInfo]:
        if self._models is None:
            found: dict[str, ModelInfo] = {}
            query: dict[str, object] = {"limit": 1_000}
            while True:
                page = self._get_once(MODELS, query)
                listed = page.get("data")
                entries = listed if isinstance(listed, list) else []
                read = [info for info in map(parse_model, entries) if info is not None]
                last = read[-1].id if read else None
                # A list that never ends shows the same models again.
                if not page.get("has_more") or last is None or last in found:
                    break
                found |= {info.id: info for info in read}
                query["after_id"] = last
            self._models = found | {info.id: info for info in read}
        return self._models

    @telemetry.traced("api.model")
    def model(self, model_id: str) -> ModelInfo | None:
        try:
            return parse_model(self._get_once(f"{MODELS}/{quote(model_id, safe='')}", {}))
        except ApiFailure as failure:
            if failure.status == 404 and failure.error_type == "not_found_error":
                return None
            raise

    def _get_once(self, path: str, query: dict[str, object]) -> dict[str, Any]:
        """The object at a path, asked for once: for what may be left unknown."""
        with failures():
            options: Any = {"params": query, "max_retries": 0}
            return json_of(self._client.get(path, cast_to=httpx2.Response, options=options))

    @asynccontextmanager
    async def open_messages(self, concurrency: int) -> AsyncIterator[AnthropicMessages]:
        async with open_messages(concurrency, self._note_headers, self._arguments) as messages:
            yield messages

    def _probe(self) -> None:
        """Raise before any work is done if the API cannot be reached or refuses the key."""
        try:
            # What the list holds does not matter here, nor that it can be read.
            query: Any = {"params": {"limit": 1}}
            self._patiently(
                lambda: json_of(self._client.get(BATCHES, cast_to=httpx2.Response, options=query))
            )
        except ApiFailure as failure:
            if refuses_key(failure):
                # Without a connection it was not the API that refused: there was nothing to send.
                what = (
                    "refuses this key" if failure.connected else "cannot be given an access token"
                )
                raise AccountError(
                    f"The API at {self._client.base_url} {what} ({failure}). Check "
                    f"{self._credentials}."
                ) from failure
            if refuses_account(failure):
                raise AccountPausedError(
                    f"The API at {self._client.base_url} refuses this account ({failure}). Settle "
                    "it in the API's console, then run again: nothing is lost."
                ) from failure
            kind = ApiUnavailableError if is_outage(failure) or failure.status == 429 else ApiError
            raise kind(
                f"The API at {self._client.base_url} cannot be used now ({failure}). Check the "
                f"network and {self._address_from}, then run again: nothing is lost."
            ) from failure

    def _patiently(self, ask: Callable[[], Answered]) -> Answered:
        """What a read returns, repeated after failures that may pass: for a few seconds and no
        longer; once with a new access token where the API refuses the present one.

        How to go on after that is decided by the caller, who can say that it waits.
        """
        renewable = self._client.credentials is not None
        for pause in READ_PAUSES:
            try:
                with failures():
                    return ask()
            except ApiFailure as failure:
                if renewable and failure.status == 401 and failure.connected:
                    renewable = False
                    self._renew_token()
                    continue
                wanted = failure.retry_after or 0.0
                if not _may_pass(failure) or wanted > LONGEST_READ_PAUSE:
                    raise
                wait = max(wanted, pause * (1 - 0.25 * random.random()))  # noqa: S311  # no secret
                log.info("the API did not answer (%s); asked again in %.1f s", failure, wait)
                time.sleep(wait)
        with failures():
            return ask()

    def _renew_token(self) -> None:
        """Let the SDK exchange the access token, which it does before its second try."""
        query: Any = {"params": {"limit": 1}}
        with failures():
            self._client.with_options(max_retries=1).get(
                BATCHES, cast_to=httpx2.Response, options=query
            )

    def _note_headers(self, headers: Mapping[str, str]) -> None:
        self.organisation = headers.get(ORGANISATION_HEADER) or self.organisation
        self.workspace = headers.get(WORKSPACE_HEADER) or self.workspace
        self._note_simulator(headers)

    def _note_simulator(self, headers: Mapping[str, str]) -> None:
        simulated = SIMULATOR_HEADER in headers
        if self._simulated is None:
            self._simulated = simulated
        elif self._simulated != simulated:
            raise AccountError(
                f"{self._client.base_url} was {'a simulator' if self._simulated else 'the API'} "
                "at first and is not any more: what answers has changed under a running process."
            )


def _may_pass(failure: ApiFailure) -> bool:
    """Whether a read may succeed when it is repeated: as the SDK judges it."""
    return failure.status is None or failure.status in (408, 409, 429) or failure.status >= 500


def _unpacked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes in all members of a gzip stream: the HTTP client reads the first one alone.

    Raises ApiFailure where the stream is cut or damaged.
    """
    member, inside = zlib.decompressobj(wbits=31), False
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                yield member.decompress(rest)
                rest, inside = member.unused_data, not member.eof
                if member.eof:
                    member = zlib.decompressobj(wbits=31)
    except zlib.error as error:
        raise ApiFailure(None, None, None, f"a download that is damaged: {error}") from error
    if inside:
        raise ApiFailure(None, None, None, "a compressed download that was cut")
