"""The score models of the room know nothing of solvers: they meet in the user's hands."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import scoresde.posterior

ROOM = Path(scoresde.posterior.__file__).parent
SAMPLERS = {"daps.py", "sample.py"}
ABOVE = ("scoresde.solvers", "scoresde.sampler", "scoresde.smc", "scoresde.likelihood")


def imported(source: str) -> list[str]:
    """The modules of all import statements, at any depth."""
    found: list[str] = []
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.ImportFrom):
            found += [f"{part.module}.{name.name}" for name in part.names]
        elif isinstance(part, ast.Import):
            found += [name.name for name in part.names]
    return found


def test_the_check_sees_every_form_of_import() -> None:
    for source in (
        "from scoresde.sampler import plan",
        "from scoresde import sampler",
        "def f():\n    import scoresde.sampler.plan as plan",
    ):
        assert any(name.startswith(ABOVE) for name in imported(source))


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_only_samplers_import_solvers(path: Path) -> None:
    found = [name for name in imported(path.read_text()) if name.startswith(ABOVE)]
    assert bool(found) == (path.name in SAMPLERS), found
