"""The bar of tqdm on a terminal and in notebooks with and without ipywidgets."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from tqdm import tqdm

from scoresde import (
    SDE,
    VPSDE,
    ClassifierFree,
    FokkerPlanck,
    FunctionScore,
    Gaussian,
    Measurement,
    Quantisation,
    ReverseSampler,
    ReverseSDE,
    TwistedSampler,
    _progress,
    calibrate,
    compare,
    decode,
    discrete_log_prob,
    elbo,
    encode,
    log_prob,
    simulate,
)
from scoresde.doctor import diagnose, split_error, transport_gap
from scoresde.measurement import Identity
from scoresde.metrics import compare_sets
from scoresde.posterior import posterior
from scoresde.smc import CorrectedGuidance, flow_samples
from scoresde.solvers import SciPySolver

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


VP = VPSDE()
NORMAL = Gaussian(torch.zeros(2), torch.ones(2)).under(VP)
X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
SEEN = Measurement(Identity(), torch.zeros(2), 0.5)
LEVELS = Quantisation(4)
CODES = LEVELS.encode(torch.zeros(2, 2, dtype=torch.long))

Score = Callable[[Tensor, Tensor], Tensor]


def model_of(score: Score) -> FunctionScore:
    return FunctionScore(VP, score)


def conditional(score: Score) -> ClassifierFree:
    def fn(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return score(t, x)

    return ClassifierFree(FunctionScore(VP, fn), 2.0, null={"label": -1})


RUNS: dict[str, Callable[[Score], object]] = {
    "sample": lambda s: ReverseSampler(VP, s, "ddim", steps=9).sample((2, 2), progress=True),
    "log_prob": lambda s: log_prob(model_of(s), X[:3], batch_size=2, progress=True),
    "encode": lambda s: encode(VP, model_of(s), X[:3], progress=True),
    "encode, and back": lambda s: encode(VP, model_of(s), X[:3], check=True, progress=True),
    "decode": lambda s: decode(VP, model_of(s), X[:3], progress=True),
    "decode by another solver": lambda s: ReverseSampler(VP, s).decode(
        X[:3], solver=SciPySolver(), progress=True
    ),
    "elbo": lambda s: elbo(model_of(s), X, decoder="gaussian", batch_size=40, progress=True),
    "discrete_log_prob": lambda s: discrete_log_prob(model_of(s), CODES, LEVELS, progress=True),
    "particles": lambda s: TwistedSampler(
        model_of(s), SEEN, particles=8, steps=9, twist="variance", variance=1.0
    ).sample((1, 2), seed=0, progress=True),
    "corrected": lambda s: CorrectedGuidance(conditional(s), particles=8, steps=9).sample(
        (1, 2), seed=0, cond={"label": torch.tensor([0])}, progress=True
    ),
    "flow samples": lambda s: flow_samples(model_of(s), 2, (2,), progress=True),
    "posterior": lambda s: posterior(
        model_of(s), SEEN, (2,), n=4, method="dps", steps=9, seed=0, progress=True
    ),
    "calibrate": lambda s: calibrate(
        ReverseSDE(VP, model_of(s), 0.0), (2,), steps=3, trajectories=16, iterations=2,
        progress=True,
    ),
    "compare": lambda s: compare(
        VP, s, (16, 2), solvers=("ddim",), steps=(3, 4), rounds=1, progress=True
    ),
    "simulate": lambda s: simulate(
        SDE(s, lambda t: torch.ones(())), X[:4], steps=9, seed=0, progress=True
    ),
    "evolve": lambda s: FokkerPlanck(
        ReverseSDE(VP, model_of(s), 1.0), ((-6.0, 6.0, 100),)
    ).evolve(Gaussian(torch.zeros(1), torch.ones(1)), 1.0, 0.1, tol=1e-2, progress=True),
    "split_error": lambda s: split_error(
        ReverseSampler(VP, s, "ddim", steps=4), Gaussian(torch.zeros(2), torch.ones(2)), n=16,
        progress=True,
    ),
    "split_error of data": lambda s: split_error(
        ReverseSampler(VP, s, "ddim", steps=4), X, n=16, progress=True
    ),
    "transport_gap": lambda s: transport_gap(
        lambda z: s(torch.ones(()), z), (8, 2), batches=4, progress=True
    ),
    "diagnose": lambda s: diagnose(model_of(s), X, progress=True),
    "compare_sets": lambda s: compare_sets(
        X, X[:60], metrics=("energy",), repeats=2, progress=True,
        features=lambda x: s(torch.ones(()), x),
    ),
}  # fmt: skip


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "_watched", lambda: True)


def exact(t: Tensor, x: Tensor) -> Tensor:
    return -x


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RUNS)
def test_whatever_takes_long_shows_its_progress_to_the_end(
    name: str, terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    RUNS[name](exact)
    told = capsys.readouterr().err
    last = told.rstrip().rpartition("\r")[2]
    done, total = map(int, re.search(r"(\d+)/(\d+) \[", last).groups())  # type: ignore[union-attr]
    if name == "calibrate":  # the total is the most that it may take
        assert 0.5 * total < done <= total
    else:
        assert "100%" in last and done == total
    assert not tqdm._instances


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(RUNS.keys() - {"compare_sets"}))
def test_an_interrupt_closes_the_bar(name: str, terminal: None) -> None:
    calls = 0

    def interrupting(t: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise KeyboardInterrupt
        return -x

    with pytest.raises(KeyboardInterrupt) as caught:  # which holds the frames of the run
        RUNS[name](interrupting)
    assert caught is not None and not tqdm._instances


@pytest.mark.filterwarnings("ignore")
def test_the_progress_of_a_likelihood_moves_within_a_batch(
    terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[int] = []
    monkeypatch.setattr(tqdm, "update", lambda self, n=1: moves.append(n))
    plain = log_prob(NORMAL, X, progress=False)
    assert moves == [0] or not moves
    moves.clear()
    shown = log_prob(NORMAL, X, progress=True)
    assert sum(moves) == len(X) and len([n for n in moves if n > 0]) > 3 and min(moves) >= 0
    assert torch.equal(plain.nats, shown.nats)


@pytest.mark.filterwarnings("ignore")
def test_the_progress_of_an_encoding_moves_within_the_solve_and_changes_nothing(
    terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[int] = []
    monkeypatch.setattr(tqdm, "update", lambda self, n=1: moves.append(n))
    plain = encode(VP, NORMAL, X)
    moves.clear()
    shown = encode(VP, NORMAL, X, progress=True)
    assert sum(moves) == len(X) and len([n for n in moves if n > 0]) > 3 and min(moves) >= 0
    assert torch.equal(plain.z, shown.z)


class Own:
    """A bar that a user brings."""

    def __init__(self) -> None:
        self.moves: list[int] = []

    def update(self, n: int = 1) -> None:
        self.moves.append(n)


LONG: dict[str, tuple[Callable[[Any], object], int]] = {
    "log_prob": (lambda bar: log_prob(NORMAL, X, batch_size=40, progress=bar), 64),
    "discrete_log_prob": (
        lambda bar: discrete_log_prob(NORMAL, CODES, LEVELS, draws=6, progress=bar), 12
    ),
    "elbo": (lambda bar: elbo(NORMAL, X, decoder="gaussian", samples=3, progress=bar), 192),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_a_bar_of_a_longer_task_is_advanced_by_each_sample_and_draw(
    name: str, terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    call, total = LONG[name]
    bar = Own()
    call(bar)
    assert sum(bar.moves) == total and len([n for n in bar.moves if n > 0]) >= 3
    assert capsys.readouterr().err == ""
    with pytest.raises(TypeError, match="progress: expected True, False or a bar, got 'yes'"):
        call("yes")
