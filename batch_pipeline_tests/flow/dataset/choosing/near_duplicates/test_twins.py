"""Which texts are twins, by their signatures."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.dataset.choosing.near_duplicates import twins
from batch_pipeline.flow.dataset.choosing.near_duplicates.signatures import (
    PIECE_BYTES,
    SignatureFile,
    pieces_of,
    require,
    signatures_of,
)

pytest.importorskip("rensa")

WORDS = [f"{''.join(random.Random(n).choices('abcdefghij', k=6))}" for n in range(3_000)]
CHINESE = [chr(code) for code in range(0x4E00, 0x5400)]


def text(seed: int, words: Sequence[str] = WORDS, count: int = 300, between: str = " ") -> str:
    return between.join(random.Random(seed).choices(words, k=count))


def found(path: Path, texts: Sequence[str], threshold: float) -> dict[int, int]:
    """Twins with their leaders, by the texts' places."""
    with SignatureFile(path) as file:
        for place, each in enumerate(texts):
            file.add(place * 3, each)
    made = twins.find(path, threshold, np.empty(0, np.int64))
    assert (made.similarities >= threshold).all()
    pairs = zip(made.ordinals.tolist(), made.leaders.tolist(), strict=True)
    return {twin // 3: leader // 3 for twin, leader in pairs}


def test_a_signature_tells_the_share_that_two_texts_have_in_common() -> None:
    one = text(1)
    for changed in (1, 4, 12):
        words = one.split()
        for place in random.Random(changed).sample(range(len(words)), changed):
            words[place] = "changed"
        other = " ".join(words)
        pieces = [
            {each[at : at + PIECE_BYTES] for at in range(len(each) - PIECE_BYTES + 1)}
            for each in (one, other)
        ]
        common = len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1])
        first, second = signatures_of([pieces_of(one), pieces_of(other)])
        assert (first == second).mean() == pytest.approx(common, abs=0.1)


def test_twins_in_any_script_and_with_other_white_space(tmp_path: Path) -> None:
    latin, chinese = text(1), text(2, CHINESE, 900, "")
    texts = [latin, chinese, text(3), "short", latin.replace(" ", "\n\n"), chinese + "完", "short"]
    assert found(tmp_path / "signatures", texts, 0.9) == {4: 0, 5: 1, 6: 3}


def test_each_twin_meets_the_threshold_with_its_leader_itself(tmp_path: Path) -> None:
    # Each text is similar to the one before, and the last is not to the first.
    words = text(1).split()
    chain = [" ".join(words[: len(words) - 12 * step] + ["x"] * step) for step in range(6)]
    leaders = found(tmp_path / "signatures", chain, 0.9)
    assert leaders
    assert set(leaders.values()).isdisjoint(leaders)
    assert 0 in leaders.values()
    assert len(set(leaders.values())) > 1
    assert all(leader < twin for twin, leader in leaders.items())


def test_a_missing_library_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'batch-pipeline\[near-duplicates\]'"):
        require()


def test_many_of_one_form_have_one_leader(tmp_path: Path) -> None:
    form = text(1)
    texts = [text(9), *(f"{form} number {n}" for n in range(1_000)), text(8)]
    assert found(tmp_path / "signatures", texts, 0.9) == dict.fromkeys(range(2, 1_001), 1)


def test_rows_that_are_asked_in_different_ways_are_no_twins(tmp_path: Path) -> None:
    with SignatureFile(tmp_path / "signatures") as file:
        for ordinal, group in enumerate((0, 1, 0, 1)):
            file.add(ordinal, text(1), group)
    made = twins.find(tmp_path / "signatures", 0.9, np.empty(0, np.int64))
    assert (made.ordinals.tolist(), made.leaders.tolist()) == ([2, 3], [0, 1])


def test_rows_that_are_passed_over_neither_lead_nor_follow(tmp_path: Path) -> None:
    with SignatureFile(tmp_path / "signatures") as file:
        for ordinal in (1, 2, 3):
            file.add(ordinal, text(1))
    made = twins.find(tmp_path / "signatures", 0.9, np.array([1]))
    assert (made.ordinals.tolist(), made.leaders.tolist()) == ([3], [2])
    assert twins.find(tmp_path / "signatures", 0.9, np.array([1, 2, 3])).ordinals.tolist() == []
