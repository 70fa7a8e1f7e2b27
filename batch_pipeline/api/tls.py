"""The TLS context of this process's clients."""

from __future__ import annotations

import functools
import ssl

import httpx2


@functools.cache
def context() -> ssl.SSLContext:
    """One context for all clients: reading the certificates takes 35 ms, longer than a call, and
    under Dagster each tick and each step makes a client. Certificates that change are seen by new
    processes.
    """
    return httpx2.create_ssl_context()
