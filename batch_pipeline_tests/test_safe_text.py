"""What is shown to people: no control character that a terminal obeys, no secret."""

from __future__ import annotations

import json
import logging

import pytest

from batch_pipeline import safe_text
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.cli.tables import SafeConsole
from batch_pipeline.errors import DeclarationError, InputDataError

KEY = "sk-ant-0123-recognizable"
# Escape sequences of both kinds, a bell, a mark that turns the direction, separators of lines, half
# of a pair.
HOSTILE = "a\x1b[2Jb\x9b31mc\x07d\u202ee\u2028f\u0085g\rh\ud800i"


@pytest.mark.parametrize("show", [safe_text.one_line, safe_text.lines, safe_text.visible])
def test_what_a_terminal_obeys_is_shown_escaped(show: object) -> None:
    assert callable(show)
    expected = r"a\x1b[2Jb\x9b31mc\x07d\u202ee\u2028f\x85g\rh\ud800i"
    assert show(HOSTILE) == expected
    assert show(expected) == expected
    assert show("Größe 中文 👩‍👩‍👧 🇩🇪 می‌خواهم") == "Größe 中文 👩‍👩‍👧 🇩🇪 می‌خواهم"


def test_a_line_break_in_data_forges_no_line() -> None:
    forged = "id\n12:00:00 batch msgbatch_1 accepted"
    assert "\n" not in safe_text.one_line(forged)
    assert "\n" not in str(ApiFailure(400, None, None, forged))
    for text in (safe_text.lines(forged), str(InputDataError(forged))):
        assert all(line.startswith(" ") for line in text.split("\n")[1:])
    assert str(DeclarationError("file:1: a\nfile:2: b")) == "file:1: a\nfile:2: b"


def test_json_holds_the_exact_data() -> None:
    document = json.dumps({"id": HOSTILE.replace("\ud800", "") + "\U000e0041"}, ensure_ascii=False)
    shown = safe_text.json_text(document)
    assert json.loads(shown) == json.loads(document)
    assert shown == safe_text.visible(shown)


def test_log_records_of_the_package_are_safe(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", f"{KEY}\n")
    safe_text.get_logger("batch_pipeline.flow.any").warning("%s of %s", "a\nb", KEY)
    logging.getLogger("another").warning("%s", "a\nb")
    assert caplog.messages == [r"a\nb of ***", "a\nb"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ANTHROPIC_API_KEY", f"{KEY}\r\n"),
        ("ANTHROPIC_AUTH_TOKEN", KEY),
        ("ANTHROPIC_CUSTOM_HEADERS", f"X-A: b\nAuthorization: Bearer {KEY}"),
        ("BATCH_PIPELINE_ALERT_URLS", f"slack://{KEY}/b, json://u:{KEY}@host"),
        ("BATCH_PIPELINE_HOME", f"ftp://user:{KEY}@host/home"),
        ("BATCH_PIPELINE_LEDGER_URL", f"postgresql://host/db?password={KEY}"),
        ("FTP_PASSWORD", KEY),
    ],
)
def test_a_secret_of_the_environment_is_in_no_text(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    for said in (value, f"Illegal header value {value.encode()!r}", f"it is {value!r}", KEY):
        assert KEY not in safe_text.one_line(said)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://user:s3cret@host/a", "ftp://***@host/a"),
        ("ftp://user:s3/cr?t@host/a", "ftp://***@host/a"),
        ("https://token@host/a", "https://***@host/a"),
        ("https://host/a.csv?sig=s3cret&x=1 is gone", "https://host/a.csv?*** is gone"),
        ("https://host?s3cret", "https://host?***"),
        ("s3://bucket/a?.csv", "s3://bucket/a?.csv"),
        ("s3://bucket/me@work/a.csv", "s3://bucket/me@work/a.csv"),
        ("http://127.0.0.1:8765/a@b", "http://127.0.0.1:8765/a@b"),
        (
            "postgresql+psycopg2://user:password@host/x",
            "postgresql+psycopg2://user:password@host/x",
        ),
    ],
)
def test_user_info_and_query_of_an_address_are_not_shown(url: str, shown: str) -> None:
    assert safe_text.redacted(url) == shown


def test_a_key_that_is_a_plain_word_is_left_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "simulator")
    assert safe_text.one_line("start the simulator") == "start the simulator"


@pytest.mark.parametrize(
    ("name", "value", "text", "shown"),
    [
        (
            "ANTHROPIC_API_KEY",
            "contract_rev",
            "contract_review 1 of contract_rev",
            "contract_review 1 of ***",
        ),
        ("ANTHROPIC_API_KEY", "10000000", "$10000000, not 100000000", "$***, not 100000000"),
        ("ANTHROPIC_API_KEY", "test-key", r"b'Bearer \ntest-key\r'", r"b'Bearer \n***\r'"),
        ("ANTHROPIC_API_KEY", f"{KEY}x1", f"a{KEY}x1b", "a***b"),
        ("MONKEY_HOME", "/usr/bin", "/usr/bin/env", "/usr/bin/env"),
    ],
)
def test_a_short_key_hides_no_part_of_other_words(
    name: str, value: str, text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert safe_text.redacted(text) == shown


def test_a_table_or_line_of_a_command_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    SafeConsole().print("Nothing under ftp://u:s3cret@host/h", soft_wrap=True, markup=False)
    assert "ftp://***@host/h" in capsys.readouterr().out


def test_the_address_of_a_relay_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_PIPELINE_ALERT_URLS", f"json://127.0.0.1:9093/{KEY}")
    said = safe_text.one_line(f"The API at http://127.0.0.1:8765, {KEY}")
    assert said == "The API at http://127.0.0.1:8765, ***"
