"""The image: small, without root, in pinned versions."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

from batch_pipeline_tests.deploy.files import DEPLOY, ROOT, instructions


def test_what_is_copied_exists_and_is_sent_to_the_build() -> None:
    sent = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for kind, text in instructions():
        if kind == "COPY" and not text.startswith("--from"):
            for source in text.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source in sent, source


def test_what_the_code_needs_is_installed_before_the_code_is_there() -> None:
    """Else each change of the code would install all of it again."""
    done = instructions()
    code = next(n for n, (_, text) in enumerate(done) if text.startswith("batch_pipeline "))
    installs = [n for n, (kind, text) in enumerate(done) if "deploy/install.sh /opt" in text]
    assert min(installs) < code < max(installs)


def test_it_runs_as_an_ordinary_user_on_a_pinned_base() -> None:
    done = instructions()
    last = max(n for n, (kind, _) in enumerate(done) if kind == "FROM")
    [user] = [text for kind, text in done[last:] if kind == "USER"]
    assert user.split(":")[0].isdecimal()
    assert int(user.split(":")[0]) != 0
    [base] = [text for kind, text in done if kind == "ARG" and text.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-\w+", base)
    assert all("${BASE}" in text for kind, text in done if kind == "FROM")


def test_its_extras_are_those_of_the_package_in_versions_that_are_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(text.split("=", 1) for kind, text in instructions() if kind == "ARG")["EXTRAS"]
    assert f":-{extras}" in (DEPLOY / "install.sh").read_text().replace("${2-", "${2:-")
    pinned = {
        re.split(r"[=<>]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    for extra in extras.split(","):
        for requirement in project["optional-dependencies"][extra]:
            assert re.split(r"[\[=<>]", requirement)[0].lower() in pinned, requirement


def test_the_installation_says_what_it_wants(tmp_path: Path) -> None:
    script = DEPLOY / "install.sh"
    subprocess.run(["bash", "-n", script], check=True)
    refused = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "usage: deploy/install.sh VENV" in refused.stderr
