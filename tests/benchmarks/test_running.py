"""Every benchmark runs as a file and as a module of the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "argparse" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("how", ["file", "module"])
@pytest.mark.parametrize("name", ["choosing", "history", "solvers"])
def test_a_benchmark_runs_as_a_file_and_as_a_module(name: str, how: str, tmp_path: Path) -> None:
    """From any folder, and with nothing on the path but the package."""
    program = (
        [str(ROOT / f"benchmarks/{name}.py")] if how == "file" else ["-m", f"benchmarks.{name}"]
    )
    done = subprocess.run(
        [sys.executable, *program, "--help"],
        cwd=ROOT if how == "module" else tmp_path,
        env=os.environ | ({"PYTHONPATH": str(ROOT)} if how == "module" else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage:" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_benchmark_runs_as_a_file(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / f"benchmarks/{name}.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout


def test_every_benchmark_is_on_the_page_that_lists_them() -> None:
    page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert [name for name in PROGRAMS if f"`{name}.py`" not in page] == []
