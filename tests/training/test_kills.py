"""Training that is killed with SIGKILL, in its writes too, ends with the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import kills

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")


def test_one_kill_between_the_two_renames(tmp_path: Path) -> None:
    (life,) = kills.survive(tmp_path, 1)
    assert life.swapped and life.half == ["checkpoint: complete, not renamed"]
    assert life.step > 0 and life.lost <= kills.EVERY


@pytest.mark.slow
@pytest.mark.nightly
def test_five_kills_of_every_kind(tmp_path: Path) -> None:
    """With accumulated gradients; at most the steps since the last checkpoint are lost."""
    lives = kills.survive(tmp_path, 5, accumulate=3, seed=1)
    assert {life.aim for life in lives} == {"any", "write", "call", "between"}
    assert sum(life.in_write for life in lives) >= 2
    assert max(life.lost for life in lives) <= kills.EVERY
    assert lives[-1].step > lives[0].step


def test_the_comparison_sees_a_byte_and_a_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x").write_bytes(b"same")
    kills.compare(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "deep" / "x").write_bytes(b"samf")
    with pytest.raises(AssertionError, match=r"other content: .*deep/x"):
        kills.compare(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / ".checkpoint.previous").write_bytes(b"")
    with pytest.raises(AssertionError, match=r"other files: .*previous"):
        kills.compare(tmp_path / "a", tmp_path / "b")
