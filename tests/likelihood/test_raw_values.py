"""Values in the original units of the data, where values in model units are expected."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde import VPSDE, Gaussian, Quantisation, elbo, encode, log_prob
from scoresde.columns import Number, TableScaling
from scoresde.data import Scaling
from scoresde.model import ScoreModel
from scoresde.summary import DataRangeWarning, DataSummary

SDE = VPSDE()
HEIGHTS = Scaling(torch.tensor([170.0, 70.0]).double(), torch.tensor([8.0, 12.0]).double())
BOUNDED = TableScaling((Number("share", 0.4, 1.3, low=0.0, high=1.0), Number("age", 40.0, 9.0)))


def model_of(**known: Any) -> ScoreModel:
    """The exact score of N(0, I), with a summary of data in [-3, 3] that are in these units."""
    model = Gaussian(torch.zeros(2), torch.eye(2)).under(SDE)
    model.data = DataSummary(1000, (2,), mean=0.0, std=1.0, low=-3.0, high=3.0, **known)
    return model


FUNCTIONS: dict[str, Callable[[ScoreModel, Tensor], object]] = {
    "log_prob": lambda model, x: log_prob(model, x),
    "elbo": lambda model, x: elbo(model, x, decoder="gaussian", steps=2),
    "encode": lambda model, x: encode(SDE, model, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("units", [HEIGHTS, BOUNDED])
def test_raw_values_are_told_with_the_way_to_encode_them(name: str, units: Any) -> None:
    model = model_of(scaling=units)
    raw = units.decode(torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).clamp(-2, 2))
    with pytest.warns(DataRangeWarning, match=r"^x: 100 % .*data\.scaling\.encode\(x\)"):
        FUNCTIONS[name](model, raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FUNCTIONS[name](model, units.encode(raw))


def test_grey_levels_are_told_too() -> None:
    model, levels = model_of(quantisation=Quantisation(256)), torch.arange(40.0).view(20, 2)
    with pytest.warns(DataRangeWarning, match=r"model\.data\.quantisation\.encode\(x\)"):
        log_prob(model, levels)


@pytest.mark.parametrize("known", [{}, {"scaling": HEIGHTS}])
def test_outliers_of_the_data_are_no_raw_values(known: dict[str, Any]) -> None:
    """Rows far from the data are what log p is asked about, if they are in model units."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_prob(model_of(**known), torch.full((20, 2), 8.0))
