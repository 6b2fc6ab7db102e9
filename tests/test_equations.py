"""Each equation of docs/theory has a function that can be imported and a test that exists."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
THEORY = ROOT / "docs/theory"
CODE, TESTS = "- In the code: ", "- Tested by: "


class Equation(NamedTuple):
    page: str
    number: str
    formula: str
    functions: list[str]
    tests: list[str]


def equations() -> list[Equation]:
    """All sections of the pages whose heading has a number, such as "## A1. One step"."""
    found = []
    for page in sorted(THEORY.glob("*.md")):
        for section in page.read_text(encoding="utf-8").split("\n## ")[1:]:
            number = section.split(".", 1)[0]
            formula = "".join(re.findall(r"^\$\$(.*)\$\$$", section, re.MULTILINE))
            lists = [
                re.findall(r"`([^`]+)`", line)
                for start in (CODE, TESTS)
                for line in section.split("\n")
                if line.startswith(start)
            ]
            assert len(lists) == 2, f"{page.name}: {number} needs one line of each kind"
            found.append(Equation(page.stem, number, formula, *lists))
    return found


EQUATIONS = equations()
named = pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e.number)


def resolved(name: str) -> object:
    """The object of a dotted name: the longest module, then its attributes."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@cache
def defined_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_equation_has_its_number_once_and_none_is_missing() -> None:
    numbers = [equation.number for equation in EQUATIONS]
    assert len(set(numbers)) == len(numbers)
    wanted = {f"A{i}" for i in range(1, 12)} | {f"B{i}" for i in range(1, 16)}
    wanted |= {"C1", "C2", "D1", "D2", "D3", "D4", "E9", "E11", "E12", "E14", "E16", "E17"}
    assert set(numbers) == wanted


@named
def test_an_equation_has_a_formula_a_function_and_a_test(equation: Equation) -> None:
    assert equation.formula or equation.page == "errata"
    assert equation.functions and equation.tests


@named
def test_every_function_can_be_imported(equation: Equation) -> None:
    for name in equation.functions:
        assert name.startswith("scoresde.") and resolved(name) is not None


@named
def test_every_test_exists(equation: Equation) -> None:
    for name in equation.tests:
        file, function = name.split("::")
        assert function.startswith("test_") and function in defined_in(file)


@named
def test_every_formula_can_be_drawn_without_a_script(equation: Equation) -> None:
    converter = pytest.importorskip("latex2mathml.converter")
    if equation.formula:
        drawn = converter.convert(equation.formula)
        assert drawn.startswith("<math") and "\\" not in drawn


def test_the_first_page_leads_to_every_other() -> None:
    listed = re.findall(r"\]\((\w+)\.md\)", (THEORY / "index.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(p.stem for p in THEORY.glob("*.md") if p.stem != "index")
