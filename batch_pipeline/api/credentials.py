"""Key and address of the API as the environment or accounts.yaml give them, checked before anything
is sent.

A mounted secret or a file of variables often ends in a line break, which the SDK would put into a
header and a transport would refuse with the whole key in its message. What surrounds a value is cut
off; what cannot be sent is refused by the variable's name, never with its value.
"""

from __future__ import annotations

import ipaddress
import os
import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
from anthropic import CredentialsError, IdentityTokenFile, WorkloadIdentityCredentials

from batch_pipeline.errors import NoCredentialsError, UsageError
from batch_pipeline.safe_text import get_logger

if TYPE_CHECKING:
    from batch_pipeline.jobs.accounts.account_specs import AccountSpec, FederationSpec

log = get_logger(__name__)

KEY, TOKEN = "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"
ADMIN_KEY = "ANTHROPIC_ADMIN_KEY"
BASE_URL = "ANTHROPIC_BASE_URL"
HEADERS = "ANTHROPIC_CUSTOM_HEADERS"
FEDERATION = (
    "ANTHROPIC_FEDERATION_RULE_ID",
    "ANTHROPIC_ORGANIZATION_ID",
    "ANTHROPIC_IDENTITY_TOKEN_FILE or ANTHROPIC_IDENTITY_TOKEN",
)


def secret(name: str) -> str | None:
    """A key or token of the environment without white space around it; None if there is none.

    Raises UsageError, which names the variable, for a value that no header can hold.
    """
    value = os.environ.get(name, "").strip().strip("\ufeff\x00")
    if re.search(r"[^\x20-\x7e]", value):
        raise UsageError(
            f"{name} has a line break or another character inside that no key has; set it "
            "to the key alone (the value is not shown here)."
        )
    return value or None


def of_environment() -> dict[str, str]:
    """The SDK's arguments for the credential of the environment, in the SDK's own order; empty
    where no variable holds one."""
    for name, argument in ((KEY, "api_key"), (TOKEN, "auth_token")):
        value = secret(name)
        if value is not None:
            return {argument: value}
    return {}


def of_account(account: AccountSpec) -> dict[str, Any]:
    """The SDK's arguments for the credential of an account of accounts.yaml.

    One that names none has that of the environment. Beside an argument the SDK reads no credential
    of the environment, so that one account never sends with the key of another. Raises
    NoCredentialsError where a variable is not set.
    """
    if account.key_env is not None:
        return {"api_key": _required(account.key_env)}
    if account.profile is not None:
        return {"profile": account.profile}
    if account.federation is not None:
        return {"credentials": _federation(account.federation)}
    return of_environment()


def _federation(declared: FederationSpec) -> WorkloadIdentityCredentials:
    file, variable = declared.identity_token_file, declared.identity_token_env
    # Both are read for each exchange: the token in a file is replaced every hour or so.
    token = IdentityTokenFile(file) if file is not None else partial(_token_in, str(variable))
    return WorkloadIdentityCredentials(
        identity_token_provider=token,
        federation_rule_id=declared.rule_id,
        organization_id=declared.organisation_id,
        service_account_id=declared.service_account_id,
        workspace_id=declared.workspace_id,
    )


def _token_in(variable: str) -> str:
    token = secret(variable)
    if token is None:
        # What the SDK raises where it cannot read an identity token itself.
        raise CredentialsError(f"the variable {variable} of an identity token is not set")
    return token


def _required(name: str) -> str:
    value = secret(name)
    if value is None:
        raise NoCredentialsError(
            f"{name} is not set, which accounts.yaml names as the key of an account: set it where "
            "this process runs."
        )
    return value


def base_url(given: str | None = None) -> str | None:
    """The address of the API: the given one or the environment's; None: the SDK knows it.

    Raises UsageError for what is no address, and for headers of the environment that cannot be
    sent.
    """
    _check_headers()
    text = given or os.environ.get(BASE_URL, "").strip()
    if not text:
        return None
    try:
        url = httpx2.URL(text)
        understood = (
            url.scheme in ("http", "https") and bool(url.host) and not re.search(r"\s", text)
        )
    except (httpx2.InvalidURL, ValueError):
        understood = False
    if not understood:
        raise UsageError(
            f"{BASE_URL} is no address of an API; write it like https://gateway.example.com (the "
            "value is not shown here)."
        )
    return text


def say_if_unencrypted(url: httpx2.URL) -> None:
    """Log once in a process that an address without TLS carries key and documents in the open."""
    if url.scheme == "http" and not _is_loopback(url.host):
        _say_unencrypted(url.host)


def _check_headers() -> None:
    """The SDK sends each line `name: value` of the variable as a header."""
    for line in os.environ.get(HEADERS, "").split("\n"):
        name, _, value = line.partition(":")
        named = not name.strip() or re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name.strip())
        if not named or re.search(r"[^\t\x20-\x7e]", value.strip()):
            raise UsageError(
                f"{HEADERS} holds a header that cannot be sent; write one `name: value` a line, in "
                "ASCII (the value is not shown here)."
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost")


@lru_cache(maxsize=16)
def _say_unencrypted(host: str) -> None:
    log.warning(
        "the API at %s is reached over http://, without encryption: the key and all documents can "
        "be read on their way. Use https:// in %s unless the network is yours alone",
        host,
        BASE_URL,
    )


def source_of(client: anthropic.Anthropic, account: AccountSpec | None = None) -> str:
    """Where a client of the SDK has its credentials from; NoCredentialsError if it has none."""
    if account is not None and account.key_env is not None:
        return account.key_env
    if account is not None and account.profile is not None:
        return f"the profile {account.profile}"
    if account is not None and account.federation is not None:
        return f"the federation rule {account.federation.rule_id} and its identity token"
    if client.credentials is not None:
        return "the profile or the federation variables that the SDK reads"
    for value, name in ((client.api_key, KEY), (client.auth_token, TOKEN)):
        if value and value.strip():
            return name
    # A blank key is one to the SDK.
    sent = {name.lower() for name in client.default_headers} if client.api_key is None else set()
    if sent & {"authorization", "x-api-key"}:
        return HEADERS
    missing = [name for name in FEDERATION if not any(map(os.environ.get, name.split(" or ")))]
    begun = f" ({', '.join(missing)} missing for a federation)" if len(missing) < 3 else ""
    raise NoCredentialsError(
        f"No API key and no simulator: set {KEY}, or anything else that the official SDK reads: "
        f"{TOKEN}, a profile, workload identity federation{begun}. To try without one, run "
        "`batch-pipeline demo`, or start `batch-pipeline simulator --port 8765` and set "
        f"{BASE_URL}=http://127.0.0.1:8765 and any non-empty {KEY}."
    )
