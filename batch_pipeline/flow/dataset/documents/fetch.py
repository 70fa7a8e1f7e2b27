"""Fetches documents from URLs, from the declared hosts alone.

A row could name any address that this machine reaches, also those that no one else does: other
ports of this machine, services of the local network, the cloud's own at 169.254.169.254. So each
URL, and each one that it redirects to, has to be of a declared host; and the host's addresses have
to be public ones, unless the declaration has the address itself or `localhost`. The address that
was looked at is the one that is asked.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx2
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Refused
from batch_pipeline.jobs.input.documents import PORTS, Host, parse_host

NOT_ALLOWED = "URL not allowed"
NOT_FETCHED = "URL cannot be fetched"
# Of silence, and for all of a document.
SILENCE_SECONDS = 60
MOST_SECONDS = 600
_MOST_REDIRECTS = 4
_REDIRECTS = {301, 302, 303, 307, 308}
# What may be gone in a moment.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_TRIES = 3
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Fetched:
    """A document that was fetched into a file."""

    sha256: str
    size: int
    content_type: str


class _AgainError(Exception):
    """A failure that may be gone in a moment."""


class Fetcher:
    """Fetches from the hosts of one declaration; safe for threads."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = frozenset(map(parse_host, hosts))
        # No proxy, cookie or password of this machine goes along.
        self._client = httpx2.Client(
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(SILENCE_SECONDS),
            headers={"accept-encoding": "identity", "user-agent": "batch-pipeline"},
        )

    def fetch(self, url: str, to: Path, most_bytes: int) -> Fetched:
        """Write a URL's content to a file; raises Refused where that is not allowed or fails.

        What may pass is tried three times.
        """
        tries = Retrying(
            stop=stop_after_attempt(_TRIES),
            wait=wait_exponential(multiplier=1, max=10),
            retry=retry_if_exception(lambda error: isinstance(error, _AgainError)),
        )
        try:
            return tries(self._once, url, to, most_bytes)
        except RetryError as error:
            raise Refused(NOT_FETCHED, str(error.last_attempt.exception())) from None

    def _once(self, url: str, to: Path, most_bytes: int) -> Fetched:
        ends = time.monotonic() + MOST_SECONDS
        try:
            with self._answer(url) as answer, to.open("wb") as file:
                return _written(answer, file, most_bytes, ends)
        except httpx2.TransportError as error:
            words = str(error) or type(error).__name__
            raise _AgainError(f"{without_query(url)}: {words}") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            raise Refused(NOT_FETCHED, f"{without_query(url)}: {error}") from None

    @contextmanager
    def _answer(self, url: str) -> Iterator[httpx2.Response]:
        """The response to follow all redirects to."""
        for _ in range(_MOST_REDIRECTS + 1):
            request = self._request(url)
            answer = self._client.send(request, stream=True)
            try:
                if answer.status_code in _REDIRECTS and "location" in answer.headers:
                    url = str(httpx2.URL(url).join(answer.headers["location"]))
                    continue
                if answer.status_code in _PASSING:
                    raise _AgainError(f"HTTP {answer.status_code} of {without_query(url)}")
                if answer.status_code != 200:
                    said = f"HTTP {answer.status_code} of {without_query(url)}"
                    raise Refused(NOT_FETCHED, said)
                yield answer
                return
            finally:
                answer.close()
        raise Refused(NOT_FETCHED, f"more than {_MOST_REDIRECTS} redirects")

    def _request(self, url: str) -> httpx2.Request:
        """The request for a URL that is allowed, to the very address that was found to be."""
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
            raise Refused(NOT_ALLOWED, f"not a URL: {error}") from None
        if parsed.scheme not in PORTS:
            raise Refused(NOT_ALLOWED, f"{parsed.scheme}:// is not fetched, https:// is")
        if parsed.userinfo:
            raise Refused(NOT_ALLOWED, "it holds a user name or a password")
        port = parsed.port or PORTS[parsed.scheme]
        host = Host(parsed.scheme, parsed.host.lower(), port)
        if host not in self._hosts:
            shown = f"host {host.host}"
            if any(each.host == host.host for each in self._hosts):
                shown = f"{host.scheme}://{host.host}:{port}"
            raise Refused(NOT_ALLOWED, f"{shown} is not in input.hosts")
        address = _address(host)
        # The certificate is the host's, whatever the address.
        return self._client.build_request(
            "GET",
            parsed.copy_with(host=address, fragment=None),
            headers={"host": parsed.netloc.decode("ascii")},
            extensions={"sni_hostname": host.host},
        )


def _address(host: Host) -> str:
    """The address to ask."""
    try:
        found = socket.getaddrinfo(host.host, host.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _AgainError(f"{host.host}: {error}") from error
    addresses = [str(each[4][0]) for each in found]
    if not _is_written_out(host.host):
        private = [each for each in addresses if not ipaddress.ip_address(each).is_global]
        if private or not addresses:
            raise Refused(
                NOT_ALLOWED,
                f"{host.host} is {', '.join(private)}, an address of the local network; where that "
                "is meant, write the address into input.hosts",
            )
    return addresses[0]


def _is_written_out(host: str) -> bool:
    """Whether a declared host says itself that it is of this machine or network."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _written(answer: httpx2.Response, file: BinaryIO, most_bytes: int, ends: float) -> Fetched:
    announced = answer.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most_bytes:
        raise _too_large(int(announced), most_bytes)
    digest, size = hashlib.sha256(), 0
    for block in answer.iter_bytes(_BLOCK):
        digest.update(block)
        size += len(block)
        if size > most_bytes:
            raise _too_large(size, most_bytes)
        if time.monotonic() > ends:
            raise Refused(NOT_FETCHED, f"not all of it has come within {MOST_SECONDS} s")
        file.write(block)
    return Fetched(digest.hexdigest(), size, answer.headers.get("content-type", ""))


def _too_large(size: int, most_bytes: int) -> Refused:
    detail = f"{size / 1e6:,.1f} MB or more, {most_bytes / 1e6:,.1f} MB at most"
    return Refused("larger than a document may be", detail, too_large=True)


def without_query(url: str) -> str:
    """A URL for messages: a signature may be part of its query."""
    return url.partition("?")[0].partition("#")[0]
