"""The gallery has a card for each example, a picture for each card, and commands that exist."""

from __future__ import annotations

import ast
import re
import shlex

import pytest
from PIL import Image

from docs.hooks import gallery

CARDS = gallery.cards()
NAMES = [card.name for card in CARDS]


def flags(program: str) -> set[str]:
    """The options of a program, from its calls of `add_argument`."""
    tree = ast.parse((gallery.ROOT / program).read_text(encoding="utf-8"))
    return {
        argument.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }


def test_every_example_has_a_card() -> None:
    examples = {f"examples/{path.name}" for path in (gallery.ROOT / "examples").glob("*.py")}
    assert examples - {card.program for card in CARDS} == set()


def test_the_page_is_that_of_the_table() -> None:
    """The remedy is `python -m docs.hooks.gallery`."""
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page()


@pytest.mark.parametrize("card", CARDS, ids=NAMES)
def test_the_command_of_a_card_exists_with_its_options(card: gallery.Card) -> None:
    python, program, *options = shlex.split(card.command)
    assert python == "python" and (gallery.ROOT / program).exists()
    assert {option for option in options if option.startswith("--")} <= flags(program)
    assert re.fullmatch(r"[A-Z].{20,110}[.?]", card.about), card.about


@pytest.mark.parametrize("card", CARDS, ids=NAMES)
def test_the_command_of_a_card_writes_its_picture(card: gallery.Card) -> None:
    """A picture of a run has the folder and the name that the program writes; others are kept."""
    folder, name = card.picture.rsplit("/", 1)
    if not folder.startswith("runs/"):
        assert (gallery.ROOT / card.picture).exists()
        return
    text = (gallery.ROOT / card.program).read_text(encoding="utf-8")
    assert f'"runs/{folder.removeprefix("runs/")}"' in text or "runs/<data>" in text
    assert name in text or name.removesuffix(".png").replace("-", " ") in text


def test_the_pictures_are_small_and_of_one_size_and_none_is_left_over() -> None:
    files = {path.name: path for path in gallery.PICTURES.iterdir()}
    assert sorted(files) == sorted(NAMES)
    for path in files.values():
        assert path.stat().st_size <= gallery.LARGEST, path.name
        with Image.open(path) as image:
            assert image.size == gallery.SIZE
    assert gallery.FRONT.stat().st_size < 200_000
