"""The bar of tqdm on a terminal and in notebooks with and without ipywidgets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = """
import sys, types, warnings

def module(name, **parts):
    made = types.ModuleType(name)
    vars(made).update(parts)
    sys.modules[name] = made

class Widget:
    def __init__(self, *_, children=(), **__):
        self.layout, self.style = types.SimpleNamespace(), types.SimpleNamespace()
        self.children, self.value, self.bar_style = children, 0, ""

module("ipykernel")
module("ipykernel.zmqshell")
module("IPython", get_ipython=lambda: None)
module("IPython.display", display=lambda *_: None)
if {widgets}:
    module("ipywidgets", __version__="8.1", HBox=Widget, HTML=Widget, FloatProgress=Widget)
else:
    sys.modules["ipywidgets"] = None
    sys.modules["IPython.html.widgets"] = None
warnings.simplefilter("error")
from scoresde._progress import progress
bar = progress(4, "train", "steps", shown={shown})
bar.update(4)
bar.set_postfix_str("loss 0.5")
bar.close()
print([each.__module__ for each in type(bar).__mro__ if each.__module__.startswith("tqdm")])
"""


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_gets_a_widget_where_there_are_some_and_no_warning(
    widgets: bool, shown: bool
) -> None:
    code = NOTEBOOK.format(widgets=widgets, shown=shown)
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("tqdm.notebook" in done.stdout) == widgets
    assert "Warning" not in done.stderr
    assert ("train: 100%" in done.stderr) == (shown and not widgets)
