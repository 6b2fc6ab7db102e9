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


HELP = """
import contextlib, io, runpy, sys
from pathlib import Path

path, failed = sys.path[1:], {}
for file in sys.argv[1:]:
    sys.path[:], sys.argv = [str(Path(file).parent), *path], [file, "--help"]
    for name in [n for n in sys.modules if n.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(file, run_name="__main__")
    except SystemExit as end:
        if end.code or "usage:" not in said.getvalue():
            failed[file] = end.code, said.getvalue()
    except Exception as error:
        failed[file] = error
sys.exit(f"failed: {failed}" if failed else 0)
"""
"""Each file as if it ran alone, with its own path and modules; torch is imported once for all."""


@pytest.mark.slow
def test_every_benchmark_runs_as_a_file(tmp_path: Path) -> None:
    files = [str(ROOT / f"benchmarks/{name}.py") for name in PROGRAMS]
    command = [sys.executable, "-c", HELP, *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_benchmark_is_on_the_page_that_lists_them() -> None:
    page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert [name for name in PROGRAMS if f"`{name}.py`" not in page] == []
