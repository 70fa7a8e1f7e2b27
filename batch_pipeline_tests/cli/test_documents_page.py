"""docs/documents.md is true: its declaration is run, and its commands print what it says.

A line `…` of the page stands for any lines. What the commands print now is printed by
`python -m batch_pipeline_tests.cli.test_documents_page`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from batch_pipeline.simulator import running_simulator
from batch_pipeline_tests import document_files
from batch_pipeline_tests.cli.program import KEY, Ended, Program

PAGE = Path(__file__).parents[2] / "docs" / "documents.md"
CONSOLE = re.compile(r"```console\n\$ batch-pipeline (.*?)\n(.*?)```", re.DOTALL)
DECLARATION = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
LAWS = ("New York", "Delaware", "California")
# What differs from run to run.
VARYING = (
    (re.compile(r"\d\d:\d\d:\d\d "), ""),
    (re.compile(r"(?:msgbatch|msg)_\w+"), "msgbatch_…"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"), "2026-11-30 02:00 UTC"),
    (re.compile(r"[\d.,]+ items/s"), "9.9 items/s"),
    (re.compile(r"by \S+@\S+: "), "by ann@example: "),
    (re.compile(r"fingerprint \w+"), "fingerprint …"),
)
ELISION = "…"


def run_page(program: Program) -> Iterator[tuple[str, str, Ended, str]]:
    """Each command of the page with what the page says it prints, and what it does print."""
    page = PAGE.read_text()
    folder = program.folder / "contracts"
    folder.mkdir()
    for number in range(40):
        law, months = LAWS[number % 3], 12 * (1 + number % 3)
        pages = [
            f"Master Services Agreement No. {number}. It runs for {months} months.",
            f"It renews by itself. Governing law: {law}.",
        ]
        (folder / f"msa_{number:02}.pdf").write_bytes(document_files.pdf(pages))
    (folder / "msa_40.pdf").write_bytes(b"PK\x03\x04 a zip that was renamed")
    declaration = program.jobs_dir / "contracts" / "defs.yaml"
    declaration.parent.mkdir(parents=True)
    [text] = DECLARATION.findall(page)
    declaration.write_text(text)
    for command, expected in CONSOLE.findall(page):
        ended = program(*shlex.split(command), COLUMNS="100")
        yield command, expected, ended, _normal(program, ended)


def _normal(program: Program, ended: Ended) -> str:
    text = ended.err + ended.out
    for path, name in (
        (program.home, "~/batch_home"),
        (program.jobs_dir, "~/jobs"),
        (program.folder, "~"),
    ):
        text = text.replace(str(path), name)
    for pattern, instead in VARYING:
        text = pattern.sub(instead, text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _matches(expected: str, printed: str) -> bool:
    """Whether a page's lines are those that were printed; `…` stands for any lines."""
    parts = [part.strip("\n") for part in re.split(rf"(?m)^\s*{ELISION}\n?", expected)]
    at = 0
    for part in filter(None, parts):
        found = printed.find(part, at)
        if found < 0 or (at == 0 and part is parts[0] and found > 0):
            return False
        at = found + len(part)
    return True


def test_the_page_is_true(tmp_path: Path) -> None:
    with running_simulator(turnaround=0.0) as simulator:
        environ = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": simulator.url}
        codes = []
        for command, expected, ended, printed in run_page(Program(tmp_path, environ)):
            assert _matches(expected, printed), f"{command}\n{printed}"
            codes.append(ended.code)
    assert codes == [0, 0, 3, 0, 0, 0]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder, running_simulator(turnaround=0.0) as sim:
        environment = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": sim.url}
        for asked, *_, told in run_page(Program(Path(folder), environment)):
            print(f"$ batch-pipeline {asked}\n{told}\n")  # noqa: T201
