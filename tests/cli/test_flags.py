"""Flags from dataclasses: names, types, help, files and the values that come of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("tyro")
from scoresde.cli.app import COMMANDS, run
from scoresde.cli.flags import docs_of, flag, flags_of, parse


@dataclass(frozen=True, kw_only=True)
class Part:
    """Options of the part."""

    clip: float | None = 1.0
    """The limit. 0 disables it."""
    board: bool | None = None
    """Write it."""
    widths: tuple[float, ...] = (0.1, 0.2)
    """The widths."""
    function: Any = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A command."""

    n: int = flag(3, alias="-n")
    """The number."""
    loud: bool = False
    """Say more."""
    item: list[str] = field(default_factory=list)
    """An item. The flag may be repeated."""
    part: Part = Part()


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A command."""

    whole: Whole = Whole()


def values(*words: str, **file: Any) -> dict[str, Any]:
    return parse(Whole, words, file, prog="command", about="About.")


def test_each_field_of_a_plain_type_is_a_flag_and_no_other() -> None:
    assert list(flags_of(Whole)) == ["n", "loud", "item", "clip", "board", "widths"]
    assert docs_of(Part)["clip"] == flags_of(Whole)["clip"].help


def test_the_command_line_goes_before_a_file_and_a_file_before_the_defaults() -> None:
    assert values() == {
        "n": 3,
        "loud": False,
        "item": [],
        "clip": 1.0,
        "board": None,
        "widths": (0.1, 0.2),
    }
    file = {"n": 5, "board": True, "item": ("a", "b"), "widths": (0.3,)}
    found = values(**file)
    assert (found["n"], found["board"], found["item"]) == (5, True, ["a", "b"])
    found = values("-n", "7", "--no-board", "--item", "c", "--widths", "0.4,0.5", **file)
    assert (found["n"], found["board"], found["item"]) == (7, False, ["c"])
    assert found["widths"] == (0.4, 0.5)


def test_a_value_of_a_file_is_of_the_type_of_its_flag() -> None:
    flags = flags_of(Whole)
    assert flags["clip"].of_file(2, "f") == 2.0
    assert flags["item"].of_file({"a": [1, 2]}, "f") == ("a=[1, 2]",)
    assert flags["widths"].of_file("0.1,0.3", "f") == (0.1, 0.3)
    for name, wrong in (("n", True), ("n", 2.5), ("n", "2"), ("loud", 1), ("clip", "1")):
        with pytest.raises(TypeError, match=f"^{name}: expected .*correct it in f"):
            flags[name].of_file(wrong, "f")


@pytest.mark.parametrize("words", [["--nn", "3"], ["-n"], ["-n", "x"], ["--loud", "yes"]])
def test_a_wrong_command_line_ends_with_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        values(*words)
    assert ended.value.code == 2 and capsys.readouterr().out == ""


def test_a_group_within_a_group_has_a_plain_heading(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Nested, ["--help"], {}, prog="command", about="About.")
    assert headings(capsys) == ["options", "whole options", "part options"]
    found = parse(Nested, ["--n", "4", "--clip", "0.5"], {}, prog="command", about="About.")
    assert (found["n"], found["clip"]) == (4, 0.5)


@pytest.mark.parametrize("name", COMMANDS)
def test_headings_of_the_help_are_words_and_no_names_of_the_code(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {
        *("positional arguments", "options", "general options", "guidance options"),
        *("data options", "model options", "optimiser options", "loss options"),
        *("loss time options", "logging and checkpoint options", "solver options"),
        *("estimation options", "measurement options", "sampling options", "reference options"),
    }
    with pytest.raises(SystemExit):
        run([name, "--help"])
    found = headings(capsys)
    assert "options" in found
    assert set(found) <= plain


def headings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The headings, each of which stands above a rule."""
    lines = capsys.readouterr().out.splitlines()
    return [one.strip() for one, other in pairwise(lines) if re.fullmatch(r" -{9,} ", other)]
