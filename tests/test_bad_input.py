"""The tables of bad input as a whole: they are many, without doubles, and leave no name out."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input import Row, check, whole

import scoresde

TESTS = Path(__file__).parent
TABLES = sorted(TESTS.rglob("test_bad_input_*.py"))


def rows(path: Path) -> list[Row]:
    """The table of one file."""
    spec = importlib.util.spec_from_file_location(f"table_of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[Row] = module.ROWS
    return found


def test_the_tables_are_long_enough_and_have_no_doubles() -> None:
    every = [row for path in TABLES for row in rows(path)]
    assert len({row.id for row in every}) == len(every) >= 282
    places = [(row.id.split("-")[0], row.argument, row.value, row.remedy) for row in every]
    assert len(set(places)) == len(places)
    for row in every:  # a remedy is a word at least
        assert re.search(r"\w{4}", row.remedy) or len(row.remedy) >= 4, row.id


def refused(tree: ast.Module) -> set[str]:
    """The names that a file uses where an error is expected: in rows, `raises` and lambdas.

    What these call or name is followed within the file.
    """
    inside: dict[str, ast.AST] = {
        node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    for node in tree.body:
        if isinstance(node, ast.Assign):
            inside |= {t.id: node for t in node.targets if isinstance(t, ast.Name)}

    def places() -> Iterator[ast.AST]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Lambda):
                yield node
            elif isinstance(node, ast.With) and "raises" in ast.unparse(node.items[0]):
                yield from node.body

    found, todo = set(), list(places())
    while todo:
        for node in ast.walk(todo.pop()):
            name = getattr(node, "id", getattr(node, "attr", None))
            if name is not None and name not in found:
                found.add(name)
                todo += [inside[name]] if name in inside else []
    return found


def test_every_public_name_is_refused_something_in_a_test() -> None:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.rglob("*.py"))
    seen = set().union(*(refused(tree) for tree in trees))
    assert [name for name in scoresde.__all__ if name not in seen] == []


def test_names_beside_an_error_do_not_count() -> None:
    source = "def f(): return A()\nwith pytest.raises(V):\n    f()\nB()\nROW = Row(lambda: C())"
    assert refused(ast.parse(source)) & {"A", "B", "C"} == {"A", "C"}


@pytest.mark.parametrize(
    ("piece", "message", "there"),
    [
        ("step", "take more steps", False),
        ("more steps", "take more steps", True),
        ("0.5", "got 0.5; ", True),
        ("-0.4", "got -0.4999; ", True),
        ("0.5", "got 10.5; ", False),
        ("'hein'", "got 'hein'; ", True),
    ],
)
def test_pieces_are_compared_by_whole_words(piece: str, message: str, there: bool) -> None:
    assert bool(whole(piece).search(message)) == there


@pytest.mark.parametrize(
    ("message", "row"),
    [
        ("n: expected one above 0, got 5; pass another", ("n", "5", "above 0")),  # not the remedy
        ("n: expected one, got 5; pass 6", ("n", "50", "pass 6")),
        ("n: 5 is too much, pass 6", ("n", "5", "pass 6")),
        ("m: expected one, got 5; pass 6", ("n", "5", "pass 6")),
    ],
)
def test_a_message_that_lacks_a_part_is_seen(message: str, row: tuple[str, str, str]) -> None:
    def call() -> None:
        raise ValueError(message)

    with pytest.raises(AssertionError):
        check(Row("planted", call, ValueError, *row))
