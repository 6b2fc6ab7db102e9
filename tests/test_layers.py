"""A module imports only from a strictly lower layer; a folder counts as one module."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "scoresde"

# From the ground up. The first five rows are layer 0, which has this small order of its own.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(row.split())
    for row in (
        "_check _progress",
        "_html",
        "_tensor _io options",
        "node cond quantisation columns nets metrics plot",
        "summary",
        "sde prediction data",
        "schedule noise model",
        "process oracles analytic_start conditioned losses ddpm",
        "guidance measurement",
        "solvers",
        "calibration",
        "sampler likelihood fokker_planck",
        "adapters",
        "smc",
        "posterior",
        "training doctor comparison export",
        "hub",
        "cli __init__",
        "__main__",
    )
)
LEVEL = {module: level for level, row in enumerate(LAYERS) for module in row}


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and absolute dotted path of all that is imported, at any depth of the code.

    ``package`` is the path of the package the code stands in, against which relative imports are
    read. Of ``from a import b`` comes a.b, whether b is a module or a name in one.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else ()
            base = up + tuple((node.module or "").split(".") if node.module else ())
            for alias in node.names:
                yield node.lineno, (*base, alias.name)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            name = node.args[0]
            if called not in ("import_module", "__import__") or not isinstance(name, ast.Constant):
                continue
            dots = len(name.value) - len(name.value.lstrip("."))
            up = package[: len(package) - dots + 1] if dots else ()
            yield node.lineno, up + tuple(name.value.lstrip(".").split("."))


def violations(root: Path) -> list[str]:
    """Every breach of the layers in the package at ``root``."""
    name = root.name
    # Module path below the package -> file: ("sde",), ("solvers", "base"), ("solvers", "__init__")
    files = {path.relative_to(root).with_suffix("").parts: path for path in root.rglob("*.py")}
    found: list[str] = []
    inside: dict[tuple[str, ...], set[tuple[str, ...]]] = {module: set() for module in files}

    def resolve(path: tuple[str, ...]) -> tuple[str, ...]:
        """The module that an import path (without the package's name) ends in."""
        for end in range(len(path), -1, -1):
            if path[:end] in files:
                return path[:end]
            if (*path[:end], "__init__") in files:
                return (*path[:end], "__init__")
        return ("__init__",)

    for module, file in sorted(files.items()):
        me = module[0]
        if me not in LEVEL:
            found.append(f"{'/'.join(module)}.py: {me} stands in no layer")
            continue
        for line, path in imports(ast.parse(file.read_text()), (name, *module[:-1])):
            where = f"{'/'.join(module)}.py:{line}"
            if not path or path[0] != name:
                continue
            target = resolve(path[1:])
            other = target[0]
            if other == me and len(module) > 1:
                inside[module].add(target)
            elif other not in LEVEL:
                found.append(f"{where}: imports {other}, which stands in no layer")
            elif LEVEL[other] >= LEVEL[me]:
                found.append(f"{where}: {me} imports {other}, which is not in a lower layer")
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        circle = " -> ".join("/".join(module) for module in reversed(error.args[1]))
        found.append(f"imports in a circle: {circle}")
    return list(dict.fromkeys(found))


def test_the_package_keeps_its_layers() -> None:
    assert violations(PACKAGE) == []


# The checker itself, on trees with one planted fault each.

CLEAN = {
    "__init__.py": "from scoresde.sampler import ReverseSampler\nfrom .sde import VPSDE",
    "_check.py": "import math",
    "_tensor.py": "from scoresde import _check\nimport torch",
    "node.py": "from scoresde._tensor import expand\nfrom ._check import positive",
    "sde.py": "from scoresde.node import Node\nimport scoresde._tensor as tensor",
    "schedule.py": "from . import sde",
    "ddpm/__init__.py": "from scoresde.ddpm.chain import DDPM",
    "ddpm/chain.py": "from ..sde import VPSDE",
    "solvers/__init__.py": "from .base import Solver\nfrom scoresde.solvers.euler import Euler",
    "solvers/base.py": "from scoresde.sde import VPSDE",
    "solvers/euler.py": "from . import base\nfrom scoresde.solvers.base import Solver",
    "sampler.py": "def f():\n    from scoresde.solvers import Euler",
    "cli.py": "from scoresde.sampler import ReverseSampler",
}


def plant(root: Path, files: dict[str, str]) -> list[str]:
    package = root / "scoresde"
    for name, source in (CLEAN | files).items():
        file = package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return violations(package)


def test_a_clean_tree_passes(tmp_path: Path) -> None:
    assert plant(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        pytest.param("sde.py", "from scoresde.schedule import Grid", "sde imports sched", id="up"),
        pytest.param("sde.py", "import scoresde.schedule", "sde imports sched", id="import"),
        pytest.param("sde.py", "import scoresde.schedule as g", "sde imports sched", id="as"),
        pytest.param(
            "sde.py", "from scoresde import schedule", "sde imports sched", id="from-root"
        ),
        pytest.param("sde.py", "from .schedule import Grid", "sde imports sched", id="relative"),
        pytest.param("sde.py", "from . import schedule", "sde imports sched", id="relative-root"),
        pytest.param(
            "sde.py", "from . import node, schedule", "sde imports sched", id="second-name"
        ),
        pytest.param(
            "sde.py",
            "from .prediction import Prediction",
            "sde imports prediction",
            id="same-layer",
        ),
        pytest.param("sde.py", "from scoresde import VPSDE", "sde imports __init__", id="top"),
        pytest.param("sde.py", "import scoresde", "sde imports __init__", id="package"),
        pytest.param("sde.py", "from . import *", "sde imports __init__", id="star"),
        pytest.param("cli.py", "import scoresde", "cli imports __init__", id="cli-top"),
        pytest.param("_check.py", "from . import _tensor", "_check imports _tensor", id="ground"),
        pytest.param(
            "node.py", "from . import quantisation", "node imports quantisation", id="layer-0"
        ),
        pytest.param(
            "sde.py",
            "def f():\n    from .schedule import Grid",
            "sde.py:2: sde imports",
            id="local",
        ),
        pytest.param(
            "sde.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .schedule import Grid",
            "sde.py:3: sde imports schedule",
            id="types-only",
        ),
        pytest.param(
            "sde.py",
            "import importlib\nimportlib.import_module('scoresde.schedule')",
            "sde.py:2: sde imports schedule",
            id="import_module",
        ),
        pytest.param(
            "sde.py",
            "from importlib import import_module\nimport_module('.schedule', __package__)",
            "sde imports sched",
            id="import_module-relative",
        ),
        pytest.param(
            "ddpm/deep/er.py",
            "from ...sampler import R",
            "ddpm imports sampler",
            id="deep",
        ),
        pytest.param(
            "solvers/base.py", "from ..sampler import R", "solvers imports sampler", id="folder"
        ),
        pytest.param(
            "ddpm/chain.py",
            "from ..solvers.base import Solver",
            "ddpm imports solvers",
            id="folder-to-folder",
        ),
        pytest.param("misc.py", "", "misc stands in no layer", id="no-layer"),
        pytest.param("util/x.py", "", "util stands in no layer", id="no-layer-folder"),
        pytest.param("solvers/base.py", "from .euler import Euler", "in a circle", id="circle"),
        pytest.param("solvers/base.py", "from . import euler", "in a circle", id="circle-module"),
        pytest.param(
            "solvers/base.py",
            "from scoresde.solvers import Euler",
            "in a circle",
            id="circle-init",
        ),
    ],
)
def test_a_planted_fault_is_seen(tmp_path: Path, file: str, source: str, complaint: str) -> None:
    extra = dict.fromkeys(("prediction.py", "quantisation.py"), "")
    (fault,) = plant(tmp_path, extra | {file: source})
    assert complaint in fault


def test_unknown_target_is_seen(tmp_path: Path) -> None:
    faults = plant(tmp_path, {"sde.py": "from .misc import x", "misc.py": ""})
    assert len(faults) == 2
    assert "imports misc, which stands in no layer" in faults[1]


def test_the_table_names_what_is_there() -> None:
    assert {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()} - {
        "__pycache__"
    } == set(LEVEL)


def test_the_table_of_contributing_is_that_of_the_package() -> None:
    """The same modules, in the order of the layers."""
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| (.*) \|$", page, flags=re.MULTILINE)
    told = [
        frozenset(re.findall(r"`(\w+)`", part)) for row in rows for part in row.split(", below ")
    ]
    assert told == list(LAYERS)
