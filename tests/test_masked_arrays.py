"""Masked entries of numpy are refused by all that takes arrays: torch reads what is below."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde import (
    VPSDE,
    Gaussian,
    Measurement,
    Preconditioned,
    ReverseSampler,
    ReverseSDE,
    calibrate,
    plot,
    sample_to,
)
from scoresde.data import Data
from scoresde.measurement import Mask
from scoresde.metrics import class_balance, feature_frechet, features_of
from scoresde.nets import MLP, Vector
from scoresde.posterior import posterior
from scoresde.solvers import Statistics

PAIR = np.ma.masked_array([[1.0, 2.0], [3.0, -9999.0]], mask=[[0, 0], [0, 1]])
ROW = PAIR[1]
SDE = VPSDE()
PRIOR = Gaussian(torch.zeros(2), torch.eye(2)).under(SDE)
FIRST = Measurement(Mask(torch.tensor([True, True])), noise=0.1)
CALLS: dict[str, tuple[str, Callable[[], object]]] = {
    "posterior": (
        "cond['y']",
        lambda: posterior(PRIOR, FIRST, (2,), cond={"y": PAIR}, n=2, calls=20, seed=0),
    ),
    "calibrate": (
        "cond['v']",
        lambda: calibrate(
            ReverseSDE(
                SDE,
                Preconditioned(MLP(2, width=8, conditions={"v": Vector(2)}), SDE),
                cond={"v": PAIR},
            ),
            (2,),
            steps=5,
        ),
    ),
    "features": ("x", lambda: list(features_of(PAIR, lambda x: x))),
    "batches": ("a batch of x", lambda: feature_frechet([PAIR], [PAIR], lambda x: x)),
    "balance": ("reference", lambda: class_balance(torch.tensor([0, 1]), 2, ROW)),
    "statistics": ("mean", lambda: Statistics.from_moments(SDE, ROW, torch.ones(2))),
    "samples": ("x", lambda: plot.samples(PAIR)),
    "floats": ("x", lambda: PRIOR.score(0.5, PAIR)),
    "tensor": ("y", lambda: Measurement(Mask(torch.tensor([True, True])), ROW, noise=0.1)),
    "rows": ("index", lambda: Data(torch.eye(2))[np.ma.masked_array([0, 1], mask=[0, 1])]),
}


@pytest.mark.parametrize("name", CALLS)
def test_masked_entries_are_refused(name: str) -> None:
    argument, act = CALLS[name]
    with pytest.raises(ValueError, match="without masked entries, got 1 masked") as caught:
        act()
    assert str(caught.value).startswith(f"{argument}: ")


def test_masked_labels_of_shards_are_refused(tmp_path: Path) -> None:
    sampler = ReverseSampler(SDE, lambda t, x, label: -x, "ddim", steps=2)
    labels = np.ma.masked_array([0, 1], mask=[0, 1])
    with pytest.raises(ValueError, match="labels: expected an array without masked entries"):
        sample_to(sampler, tmp_path, 4, (2,), labels=labels)
