"""log p in the units of a table: the exact densities of a logit-normal and a log-normal."""

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution, transforms

from scoresde import VPSDE, Gaussian
from scoresde.columns import Category, Number, TableScaling
from scoresde.data import Scaling
from scoresde.likelihood import log_prob
from scoresde.options import Tolerances


def test_log_prob_of_bounded_columns_is_that_of_their_law() -> None:
    """x is N(0, I) at all times of this SDE, so the links make a logit-normal and a log-normal."""
    scaling = TableScaling(
        (Number("share", 0.4, 1.3, low=0.0, high=1.0), Number("income", 8.0, 0.7, low=0.0))
    )
    sde, normal = VPSDE(), Gaussian(torch.zeros(2).double(), torch.eye(2).double())
    raw = torch.tensor([[0.2, 3000.0], [0.7, 900.0], [0.999, 20000.0]], dtype=torch.float64)
    x = scaling.encode(raw)
    tight = Tolerances(1e-8, 1e-8)
    result = log_prob(normal.under(sde), x, prior=normal, divergence="exact", tolerances=tight)
    u = [Normal(*torch.tensor(v, dtype=torch.float64)) for v in ((0.4, 1.3), (8.0, 0.7))]
    share = TransformedDistribution(u[0], [transforms.SigmoidTransform()])
    income = TransformedDistribution(u[1], [transforms.ExpTransform()])
    expected = share.log_prob(raw[:, 0]) + income.log_prob(raw[:, 1])
    got = result.nats_in_units(scaling, x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert (got - result.nats).abs().min() > 0.1  # model units are others


def test_log_prob_of_plain_numbers_is_shifted_by_the_scale() -> None:
    scaling = Scaling(torch.tensor([5.0]), torch.tensor([4.0]), ("height",))
    sde, normal = VPSDE(), Gaussian(torch.zeros(1).double(), torch.eye(1).double())
    raw = torch.tensor([[1.0], [9.0]], dtype=torch.float64)
    result = log_prob(normal.under(sde), scaling.encode(raw), prior=normal, divergence="exact")
    expected = Normal(5.0, 4.0).log_prob(raw[:, 0])
    got = result.nats_in_units(scaling, scaling.encode(raw))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert torch.equal(result.nats_in_units(None, raw), result.nats)  # raw values in model units


def test_rows_with_probabilities_are_refused() -> None:
    sde, normal = VPSDE(), Gaussian(torch.zeros(1).double(), torch.eye(1).double())
    x = torch.ones(2, 1, dtype=torch.float64)
    result = log_prob(normal.under(sde), x, prior=normal, divergence="exact")
    kinds = TableScaling((Category("kind", ("u", "v")),))
    with pytest.raises(ValueError, match=r"density in the units of the table, got .*'kind' has"):
        result.nats_in_units(kinds, x)
    with pytest.raises(ValueError, match="x: expected the 2 samples of log_prob"):
        result.nats_in_units(kinds, x[:1])
