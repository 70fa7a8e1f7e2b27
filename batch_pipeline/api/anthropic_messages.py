"""The Messages endpoint over the official SDK's asynchronous client."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anthropic
import httpx2

from batch_pipeline.api.protocol import Answer
from batch_pipeline.api.wire import betas_header, failures, json_of, rate_limits

MESSAGES = "/v1/messages"


class AnthropicMessages:
    """`Messages` over an open client; `note` sees every response, refusals too."""

    def __init__(
        self, client: anthropic.AsyncAnthropic, note: Callable[[httpx2.Response], None]
    ) -> None:
        self._client = client
        # Whole, so that it is not put together anew for each call.
        self._url = f"{str(client.base_url).rstrip('/')}{MESSAGES}"
        self._note = note

    async def create(self, params: bytes, betas: Sequence[str]) -> Answer:
        # The typed call would build the request from Python objects and parse the answer into some.
        with failures():
            try:
                response = await self._client.post(
                    self._url,
                    content=params,
                    cast_to=httpx2.Response,
                    options={"headers": {"content-type": "application/json"} | betas_header(betas)},
                )
            except anthropic.APIStatusError as error:
                self._note(error.response)
                raise
            self._note(response)
            return Answer(json_of(response), rate_limits(response.headers))
