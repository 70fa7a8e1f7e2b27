"""What the official SDK accepts as credentials is accepted, and renewed in long nights."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api.client import AnthropicApi
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import AccountError, NoCredentialsError, UsageError
from batch_pipeline.jobs.accounts.account_specs import AccountSpec, FederationSpec
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.api.test_client import body, create
from batch_pipeline_tests.support import Faults, error

TOKENS = "/v1/oauth/token"
MESSAGES = ("POST", "/v1/messages")
IDENTITY = "identity-token-that-no-message-may-quote"
PARAMS = json.dumps(json.loads(body())["requests"][0]["params"]).encode()


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, sim: Simulator, tmp_path: Path) -> None:
    """No credentials but those of the test, not even those of the machine."""
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def federation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A workload identity in place of a key, as the SDK's variables declare it."""
    token = tmp_path / "identity"
    token.write_text(IDENTITY)
    monkeypatch.setenv("ANTHROPIC_FEDERATION_RULE_ID", "fdrl_1")
    monkeypatch.setenv("ANTHROPIC_ORGANIZATION_ID", "org")
    monkeypatch.setenv("ANTHROPIC_IDENTITY_TOKEN_FILE", str(token))


class Revoking:
    """A server that accepts the newest access token only, and no token that was revoked."""

    def __init__(self, faults: Faults) -> None:
        self.revoked: set[str] = set()
        self.newest = ""
        self.given: list[str] = []
        faults.on_request = self.look

    def look(self, request: Request) -> Response | None:
        if request.url.path == TOKENS:
            self.newest = f"token-{len(self.given)}"
            self.given.append(self.newest)
            answer = {"access_token": self.newest, "token_type": "Bearer", "expires_in": 600}
            return Response(json.dumps(answer))
        token = request.headers["authorization"].removeprefix("Bearer ")
        if token in self.revoked:
            return error(401, "authentication_error", "token revoked")
        return None

    def revoke(self) -> None:
        self.revoked.update(self.given)


def profile(folder: Path, name: str, authentication: dict[str, str]) -> Path:
    """The configuration of a profile, and the file of its access token."""
    config, credentials = (folder / part / f"{name}.json" for part in ("configs", "credentials"))
    for path in (config, credentials):
        path.parent.mkdir(parents=True)
    config.write_text(json.dumps({"version": "1.0", "authentication": authentication}))
    credentials.write_text(
        json.dumps({"version": "1.0", "type": "oauth_token", "access_token": "from a profile"})
    )
    credentials.chmod(0o600)
    return credentials


@pytest.mark.parametrize("way", ["token", "named profile", "active profile", "headers"])
def test_what_the_sdk_reads_is_enough(
    way: str, faults: Faults, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: set[str | None] = set()
    faults.on_request = lambda request: seen.add(request.headers.get("authorization"))
    if way == "token":
        monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "a token")
    elif way == "headers":
        monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "Authorization: Bearer a header")
    else:
        name = "night" if way == "named profile" else "default"
        profile(tmp_path / "config", name, {"type": "user_oauth"})
        monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "config"))
        if way == "named profile":
            monkeypatch.setenv("ANTHROPIC_PROFILE", name)
    api = AnthropicApi()
    create(api)
    asyncio.run(_ask(api, 1))
    expected = {"token": "a token", "headers": "a header"}.get(way, "from a profile")
    assert seen == {f"Bearer {expected}"}


@pytest.mark.parametrize("way", ["key", "profile", "federation"])
def test_an_account_sends_with_its_own_credential_alone(
    way: str, faults: Faults, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of the environment are another account's."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the key of another account")
    monkeypatch.setenv("TEAM_KEY", " a key of its own\n")
    monkeypatch.setenv("TEAM_IDENTITY", IDENTITY)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "config"))
    profile(tmp_path / "config", "team", {"type": "user_oauth"})
    federation = FederationSpec(
        rule_id="fdrl_1", organisation_id="org", identity_token_env="TEAM_IDENTITY"
    )
    account = {
        "key": AccountSpec(key_env="TEAM_KEY"),
        "profile": AccountSpec(profile="team"),
        "federation": AccountSpec(federation=federation),
    }[way]
    seen: set[str] = set()

    def note(request: Request) -> Response | None:
        if request.url.path == TOKENS:
            answer = {"access_token": "exchanged", "token_type": "Bearer", "expires_in": 600}
            return Response(json.dumps(answer))
        seen.add(request.headers["authorization"].removeprefix("Bearer "))
        return None

    faults.on_request = note
    api = AnthropicApi(account=account)
    create(api)
    asyncio.run(_ask(api, 1))
    own = {"key": "a key of its own", "profile": "from a profile", "federation": "exchanged"}
    assert seen == {own[way]}
    assert api.organisation is not None
    assert api.workspace is not None


def test_a_variable_that_an_account_names_and_is_not_set_is_named() -> None:
    with pytest.raises(NoCredentialsError, match="TEAM_KEY is not set"):
        AnthropicApi(account=AccountSpec(key_env="TEAM_KEY"))
    federation = FederationSpec(
        rule_id="fdrl_1", organisation_id="org", identity_token_env="TEAM_IDENTITY"
    )
    with pytest.raises(AccountError, match="TEAM_IDENTITY"):
        AnthropicApi(account=AccountSpec(federation=federation))


@pytest.mark.usefixtures("federation")
def test_a_federation_is_enough(sim: Simulator, faults: Faults) -> None:
    api = AnthropicApi()
    create(api)
    api.retrieve_batch(create(api))
    # The client of creates shares the access token of the one of reads.
    assert faults.calls.count(("POST", TOKENS)) == 1
    assert sim.books.batches_created == 2


@pytest.mark.usefixtures("federation")
def test_calls_whose_token_was_refused_are_made_again_with_another(
    sim: Simulator, faults: Faults
) -> None:
    server = Revoking(faults)
    api = AnthropicApi()

    async def ask() -> None:
        async with api.open_messages(20) as messages:
            await messages.create(PARAMS, ())
            server.revoke()
            exchanges = len(server.given)
            await asyncio.gather(*(messages.create(PARAMS, ()) for _ in range(20)))
            # One renewal for all calls, and the token is kept.
            assert len(server.given) == exchanges + 1
            await messages.create(PARAMS, ("a-beta",))
            assert len(server.given) == exchanges + 1

    asyncio.run(ask())
    [booked] = sim.books.contents.values()
    assert booked.billed == 22


@pytest.mark.usefixtures("federation")
def test_a_second_refusal_stands(faults: Faults) -> None:
    server = Revoking(faults)
    api = AnthropicApi()
    faults.on_request = lambda request: (
        server.look(request)
        if request.url.path == TOKENS
        else error(401, "authentication_error", "the rule is disabled")
    )
    faults.calls.clear()
    with pytest.raises(ApiFailure, match="the rule is disabled") as caught:
        asyncio.run(_ask(api, 1))
    assert caught.value.status == 401
    assert faults.calls.count(MESSAGES) == 2


def test_a_refused_key_is_not_tried_again(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
    api = AnthropicApi()
    faults.on_request = lambda _: error(401, "authentication_error", "no")
    faults.calls.clear()
    with pytest.raises(ApiFailure):
        asyncio.run(_ask(api, 1))
    assert faults.calls == [MESSAGES]


@pytest.mark.usefixtures("federation")
def test_a_create_has_a_token_that_was_not_revoked(sim: Simulator, faults: Faults) -> None:
    server = Revoking(faults)
    api = AnthropicApi()
    server.revoke()
    faults.calls.clear()
    create(api)
    assert faults.calls.count(("POST", "/v1/messages/batches")) == 1
    assert sim.books.batches_created == 1


@pytest.mark.usefixtures("federation")
@pytest.mark.parametrize(
    "answer",
    [
        error(401, "authentication_error", IDENTITY),
        Response(f"<html>bad assertion {IDENTITY}</html>", 403),
        Response(json.dumps({"error": "invalid_grant", "assertion": IDENTITY}), 400),
        Response(json.dumps([IDENTITY]), 400),
    ],
    ids=["api error", "page", "oauth error", "list"],
)
def test_a_refused_identity_is_said_and_not_quoted(faults: Faults, answer: Response) -> None:
    faults.on_request = lambda request: answer if request.url.path == TOKENS else None
    with pytest.raises(AccountError, match="access token") as caught:
        AnthropicApi()
    assert "federation variables" in str(caught.value)
    assert IDENTITY not in str(caught.value)


@pytest.mark.usefixtures("federation")
def test_a_refused_identity_in_the_night_is_a_refusal_and_an_outage_is_none(
    faults: Faults,
) -> None:
    server = Revoking(faults)
    api = AnthropicApi()
    server.revoke()
    for status, expected in ((400, 401), (503, None)):
        faults.on_request = partial(_look, server, Response("{}", status))
        with pytest.raises(ApiFailure) as caught:
            create(api)
        assert (caught.value.status, caught.value.connected) == (expected, False)
        assert not any(is_create_call(call) for call in faults.calls)


def _look(server: Revoking, exchanged: Response, request: Request) -> Response | None:
    return exchanged if request.url.path == TOKENS else server.look(request)


def is_create_call(call: tuple[str, str]) -> bool:
    return call == ("POST", "/v1/messages/batches")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NoCredentialsError, match="set ANTHROPIC_API_KEY, or anything else"):
        AnthropicApi()
    monkeypatch.setenv("ANTHROPIC_FEDERATION_RULE_ID", "fdrl_1")
    with pytest.raises(NoCredentialsError, match=r"ORGANIZATION_ID, .*TOKEN missing for a fed"):
        AnthropicApi()
    monkeypatch.setenv("ANTHROPIC_PROFILE", "night")
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "config"))
    with pytest.raises(UsageError, match="Config file not found"):
        AnthropicApi()
    profile(tmp_path / "config", "night", {"type": "user_oauth"}).unlink()
    with pytest.raises(AccountError, match="Credentials file not found"):
        AnthropicApi()


async def _ask(api: AnthropicApi, count: int) -> None:
    async with api.open_messages(count) as messages:
        await asyncio.gather(*(messages.create(PARAMS, ()) for _ in range(count)))
