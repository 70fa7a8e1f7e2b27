"""accounts.yaml: what is taken, what is refused with its line, and which names follow from it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from batch_pipeline.errors import DeclarationError, UsageError
from batch_pipeline.jobs.accounts.accounts_file import AccountNames, Accounts, load
from batch_pipeline.jobs.yaml_files.loading import find_job
from batch_pipeline.safe_text import redacted
from batch_pipeline.settings import Settings

KEY = "sk-ant-" + "api03-Zz9" * 9
TWO = """\
research_a: {key_env: RESEARCH_A, owner: research, organisation: acme, workspace: a}
research_b:
  key_env: RESEARCH_B
  owner: research
  organisation: acme
  workspace: wrkspc_01B
  max_queued_requests: 500
  max_usd_per_month: 12.5
legal: {profile: legal, base_url: "https://gateway.example.com"}
"""


@pytest.fixture
def write(tmp_path: Path) -> Path:
    """Where accounts.yaml is written."""
    return tmp_path / "accounts.yaml"


def settings(file: Path | None, **variables: str) -> Settings:
    environ = {f"BATCH_PIPELINE_{name}": value for name, value in variables.items()}
    if file is not None:
        environ["BATCH_PIPELINE_ACCOUNTS"] = str(file)
    return Settings.from_environment(environ)


def loaded(write: Path, text: str, **variables: str) -> Accounts:
    write.write_text(text)
    return load(settings(write, **variables))


def test_names_limits_and_ceilings(write: Path) -> None:
    found = loaded(write, TWO, MAX_USD_PER_MONTH="90")
    assert list(found.by_name) == ["research_a", "research_b", "legal"]
    assert found.of_job(("research_a", "research_b"), "job") == ("research_a", "research_b")
    assert found.owner_of(("research_a", "research_b")) == "research"
    assert found.queue_limit("acme") == 500
    assert found.queue_limit("legal") is None
    assert found.ceiling("research_b") == (
        Decimal("12.5"),
        "max_usd_per_month of account research_b",
    )
    assert found.ceiling("legal") == (Decimal(90), "BATCH_PIPELINE_MAX_USD_PER_MONTH")
    assert found.names("research_b", simulated=False) == AccountNames(
        "research_b",
        "research",
        "acme",
        simulated=False,
        workspace_id="wrkspc_01B",
        declared="research_b",
    )
    simulated = found.names("research_b", simulated=True)
    assert simulated == AccountNames(
        "simulator.research_b",
        "simulator",
        "simulator.acme",
        simulated=True,
        declared="research_b",
    )
    assert found.declared_as(simulated.name) == "research_b"
    assert found.declared_as("gone") is None
    assert found.credentials_of(["research_a", "simulator.legal", "gone"]) == (
        "RESEARCH_A or profile legal"
    )


def test_without_a_file_the_environment_is_the_one_account(tmp_path: Path) -> None:
    jobs = {"JOBS_DIR": str(tmp_path)}
    one = load(settings(None, ACCOUNT="ours", MAX_USD_PER_MONTH="7", **jobs))
    assert one.of_job((), "job") == ("ours",)
    assert one.ceiling("ours") == (Decimal(7), "BATCH_PIPELINE_MAX_USD_PER_MONTH")
    assert one.names("ours", simulated=False) == AccountNames(
        "ours", "ours", "ours", simulated=False
    )
    simulator = one.names("ours", simulated=True)
    assert (simulator.name, simulator.owner, simulator.organisation) == ("simulator",) * 3
    assert one.declared_as("simulator") == "ours"
    assert one.queue_limit("ours") is None
    given = settings(None, MAX_QUEUED_REQUESTS="200000", **jobs)
    assert load(given).queue_limit("default") == 200_000
    with pytest.raises(UsageError, match="there is no accounts"):
        one.of_job(("theirs",), "job")


def test_the_file_lies_beside_the_jobs_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "accounts.yaml").write_text("a: {key_env: A_KEY}\n")
    assert list(load(settings(None, JOBS_DIR=str(tmp_path))).by_name) == ["a"]
    with pytest.raises(UsageError, match="BATCH_PIPELINE_ACCOUNTS"):
        settings(tmp_path / "elsewhere.yaml")


@pytest.mark.parametrize(
    ("text", "account", "found"),
    [
        (TWO, "legal", ("legal",)),
        ("a: {key_env: A_KEY}\n", None, ("a",)),
        ("default: {key_env: A_KEY}\nb: {key_env: B_KEY}\n", None, ("default",)),
        (TWO, None, r"job j names no accounts, and .* `accounts: \[research_a\]`"),
        (TWO, "gone", "BATCH_PIPELINE_ACCOUNT is 'gone', which is not in"),
    ],
)
def test_a_job_that_names_no_accounts(
    write: Path, text: str, account: str | None, found: tuple[str, ...] | str
) -> None:
    named = {} if account is None else {"ACCOUNT": account}
    if isinstance(found, tuple):
        assert loaded(write, text, **named).of_job((), "j") == found
    else:
        with pytest.raises(UsageError, match=found):
            loaded(write, text, **named).of_job((), "j")


def test_a_jobs_accounts_share_an_owner(write: Path) -> None:
    found = loaded(write, TWO)
    with pytest.raises(UsageError, match="share one owner"):
        found.of_job(("research_a", "legal"), "j")
    with pytest.raises(DeclarationError, match="legal has the owner legal"):
        found.owner_of(("research_a", "legal"))
    with pytest.raises(UsageError, match="'other' is not in"):
        found.of_job(("other",), "j")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "declares no account"),
        ("a: {key_env: A, key: B}\n", 1, "a.key: unknown key; "),
        ("a:\n  key_env: a_key\n", 2, "in capitals, like RESEARCH_A_KEY, not 'a_key'"),
        ("a:\n  key_env: ${A_KEY}\n", 2, "must be the name of an environment variable"),
        ("a: {key_env: A, profile: b}\n", 1, "has key_env and profile; give one of them"),
        ("a: {}\nb: {}\n", 2, "b: needs a key_env"),
        ("a: {key_env: A}\nb: {key_env: A}\n", 2, r"has the credential of account a \(A\)"),
        ("simulator: {}\n", 1, "the simulator keeps for itself"),
        ("a.b: {}\n", 1, "must be letters, digits"),
        ("7: {}\n", 1, "must be text, not 7"),
        ("a: {key_env: A}\na: {key_env: B}\n", 2, "is there twice"),
        ("a:\n  federation: {rule_id: r, organisation_id: o}\n", 2, "identity_token_file"),
        ("a:\n  base_url: https://me:secret@example.com\n", 2, "holds a user name, password"),
        ("a:\n  base_url: example.com\n", 2, "must be an address like"),
        ("a:\n  max_queued_requests: 0\n", 2, "must be greater than or equal to 1"),
        (
            "a: {key_env: A, organisation: o}\nb:\n  key_env: B\n  organisation: o\n",
            2,
            "b.workspace: is the default workspace of organisation o, as account a is",
        ),
        (
            """
a: {organisation: o, workspace: x, max_queued_requests: 5}
b: {key_env: B, organisation: o, max_queued_requests: 6}
""",
            3,
            "one queue",
        ),
        (
            "a: {key_env: A, owner: b}\nb: {key_env: B, owner: c}\n",
            1,
            "a.owner: is b, an account that has the owner c itself",
        ),
    ],
)
def test_what_is_refused_is_named_with_its_line(
    write: Path, text: str, line: int, said: str
) -> None:
    with pytest.raises(DeclarationError, match=rf"accounts\.yaml:{line}: .*{said}"):
        loaded(write, text)


@pytest.mark.parametrize(
    "text",
    [
        f"a: {{key_env: {KEY}}}\n",
        f"a: {{api_key: {KEY}}}\n",
        f"a: {{workspace: {'q7' * 20}}}\n",
        f"a: {{federation: {{identity_token_env: eyJhbGciOiJSUzI1NiJ9.{'x' * 40}}}}}\n",
        f"{KEY}: {{}}\n{KEY}: {{}}\n",
        f"a: {{max_queued_requests: {KEY}}}\n",
        f"a: [{KEY}]\n",
        f"a: *{KEY}\n",
    ],
)
def test_a_value_that_looks_like_a_key_is_refused_and_not_shown(write: Path, text: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        loaded(write, text)
    assert "a key; it is not shown" in str(raised.value) or "undefined alias" in str(raised.value)
    assert not {KEY, "q7q7", "eyJ"} & set(str(raised.value).replace("*", " ").split())
    assert KEY not in str(raised.value)


def test_long_names_of_variables_are_no_keys(write: Path) -> None:
    name = "RESEARCH_DEPARTMENT_A2_ANTHROPIC_API_KEY_OF_PRODUCTION"
    assert loaded(write, f"a: {{key_env: {name}}}\n").by_name["a"].key_env == name


def test_headers_that_would_be_the_credential_of_all_accounts_are_refused(
    write: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-team: a\nX-Api-Key: k")
    with pytest.raises(DeclarationError, match=r"header x-api-key.*remove it there"):
        loaded(write, "a: {key_env: A}\n")


def test_the_values_of_named_variables_are_hidden(
    write: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESEARCH_A_CONSOLE", "plain-9-value")
    assert redacted("it is plain-9-value") == "it is plain-9-value"
    loaded(write, "a: {key_env: A, admin_key_env: RESEARCH_A_CONSOLE}\n")
    assert redacted("it is plain-9-value") == "it is ***"


def test_a_token_file_is_relative_to_the_file(write: Path) -> None:
    text = "a: {federation: {rule_id: r, organisation_id: o, identity_token_file: token}}\n"
    found = loaded(write, text).by_name["a"].federation
    assert found is not None
    assert found.identity_token_file == str(write.parent / "token")


@pytest.mark.parametrize(
    ("accounts", "said"),
    [
        ("[a, b]", None),
        ("[a, c]", "'c' is not in .*accounts.yaml, which has a, b, legal"),
        ("[a, legal]", "the accounts of a job share one owner"),
        ("[a, a]", "'a' is there twice"),
    ],
)
def test_a_declaration_is_checked_against_the_file(
    tmp_path: Path, accounts: str, said: str | None
) -> None:
    (tmp_path / "accounts.yaml").write_text(
        "a: {key_env: A, owner: o}\nb: {key_env: B, owner: o}\nlegal: {key_env: L}\n"
    )
    (tmp_path / "review").mkdir()
    (tmp_path / "review" / "defs.yaml").write_text(
        f"""
type: batch_pipeline.BatchJobComponent
attributes:
  name: review
  input: {{path: in.jsonl}}
  prompt: {{user: "{{text}}"}}
  model_id: claude-haiku-4-5-20251001
  max_tokens: 100
  accounts: {accounts}
"""
    )
    if said is None:
        assert find_job(tmp_path, "review").accounts == ("a", "b")
    else:
        with pytest.raises(DeclarationError, match=rf"defs\.yaml:9: attributes\.accounts: {said}"):
            find_job(tmp_path, "review")


def test_settings_of_one_account_know_no_file() -> None:
    found = settings(None)
    assert (found.accounts_file, replace(found).queue_limit_assumed) == (None, True)
