"""How many files of the package a reader meets who follows a call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TRACED = """
import json, sys
from pathlib import Path

package, found = sys.argv[1], set()

def imported(frame):
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(package):
            return True
        frame = frame.f_back
    return False

def enter(frame, event, argument):
    code = frame.f_code
    inside = event == "call" and code.co_filename.startswith(package)
    # No class bodies, lambdas or comprehensions, and nothing that an import runs.
    if inside and code.co_flags & 1 and not code.co_name.startswith("<") and not imported(frame):
        found.add((code.co_filename, code.co_qualname))

{prepare}
sys.setprofile(enter)
try:
    {run}
except SystemExit as end:
    assert end.code == 0, end.code
sys.setprofile(None)
files = sorted({{Path(file).relative_to(package).as_posix() for file, _ in found}})
print(json.dumps([files, len(found)]))
"""


def entered(prepare: str, run: str, *arguments: str) -> tuple[list[str], int]:
    """The files whose functions a run enters, and the number of these functions."""
    code = TRACED.format(prepare=prepare, run=run)
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "scoresde"), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    files, functions = json.loads(done.stdout.splitlines()[-1])
    return files, functions


@pytest.mark.skipif(sys.version_info < (3, 11), reason="co_qualname")
def test_a_reader_of_a_training_run_meets_few_files(tmp_path: Path) -> None:
    """The model, its data, validation and a folder: 49 files, 307 functions.

    A network with conditions has 3 of them, the recipe and the optimiser 2, the loss 4; the
    calibration, the augmentation, early stopping and changed settings have one or two each.
    """
    prepare = (
        "from scoresde import Preconditioned, Trainer, VPSDE\n"
        "from scoresde.data import moons\nfrom scoresde.nets import MLP\n"
    )
    run = (
        "x = moons(1000); model = Preconditioned(MLP(2), VPSDE()); "
        "Trainer(model, x, steps=2, validation=x, out=sys.argv[2]).fit()"
    )
    files, functions = entered(prepare, run, str(tmp_path / "run"))
    assert len(files) <= 49, files
    assert functions <= 313


@pytest.mark.skipif(sys.version_info < (3, 11), reason="co_qualname")
def test_a_reader_of_the_command_meets_little_more(tmp_path: Path) -> None:
    """Names to objects, flags and figures besides: 65 files.

    Without pictures of samples, for which the sampler and its plots come in.
    """
    pytest.importorskip("tyro")
    words = f"train moons --steps 2 --sample-every 0 --out {tmp_path / 'run'}".split()
    files, _ = entered("from scoresde.cli import main", f"main({words!r})")
    assert len(files) <= 65, files
