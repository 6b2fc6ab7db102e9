"""The first use, by somebody who chooses nothing: defaults, good samples, and a word when not."""

import inspect
import math
import re
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import grouped
from torch import Tensor, nn

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    FlowSDE,
    Gaussian,
    LinearSDE,
    Preconditioned,
    ReverseSampler,
    Trainer,
    load,
    sample_to,
    save,
)
from scoresde.analytic_start import AnalyticStart
from scoresde.cli.flags import flags_of
from scoresde.cli.train import Train
from scoresde.cond import Cond
from scoresde.data import Data, summarise, toy
from scoresde.losses import TIME, WEIGHTING, dsm_loss
from scoresde.metrics import sliced_wasserstein
from scoresde.model import ScoreModel, default_prediction, summary_of
from scoresde.nets import MLP
from scoresde.node import Node
from scoresde.options import Loss, Optim, Records
from scoresde.prediction import Prediction
from scoresde.quantisation import Quantisation
from scoresde.sampler import ShardFiles
from scoresde.summary import DataRangeWarning, DataSummary
from scoresde.training import RECIPES


def drawn(n: int, dim: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


# The defaults, each from its one place


def test_the_defaults_of_trainer_loss_and_command_line_are_one() -> None:
    loss = Trainer(Preconditioned(MLP(2, width=8), VPSDE()), drawn(64), steps=1).loss
    assert loss.time == TIME.fitted(summarise(drawn(64)).std)
    assert loss.weighting == WEIGHTING == RECIPES["vector", "quality"].weighting
    assert inspect.signature(dsm_loss).parameters["weighting"].default == WEIGHTING
    own = {f.name: f.default for group in (Optim, Loss, Records) for f in fields(group)}
    flags = flags_of(Train)
    for name in ("time", "predicts", "sigma_data"):
        assert flags[name].default is None, "the command line has defaults of its own"
    for name in own.keys() - {"function"}:
        assert flags[name].default == own[name], name


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()])
def test_sigma_data_is_measured_once_and_kept(sde: SDE, tmp_path: Path) -> None:
    x = 0.5 * drawn(400)
    trainer = Trainer(Preconditioned(MLP(2, width=8), sde), x, steps=1, out=tmp_path / "run")
    model = trainer.fit()
    measured = summarise(x).std if default_prediction(sde) == "edm" else None
    assert model.sigma_data == measured
    saved = load(tmp_path / "run" / "checkpoint")
    assert saved.sigma_data == measured
    assert torch.equal(saved.score(0.5, x), model.score(0.5, x))
    # Weights that were trained with one preconditioning keep it on other data.
    again = Trainer(saved, 2 * x, steps=1).fit()
    assert again.sigma_data == measured
    given = Preconditioned(MLP(2, width=8), sde, "edm", sigma_data=0.7)
    assert Trainer(given, x, steps=1).fit().sigma_data == 0.7


FAMILIES = [VPSDE(), FlowSDE(), EDMSDE()]


@pytest.mark.parametrize("sde", FAMILIES, ids=lambda sde: type(sde).__name__)
def test_moons_by_the_defaults_are_moons(sde: SDE) -> None:
    """Some hundred steps of a small network: right in spread, range and shape, without a word."""
    data, other = toy("moons", 4000, seed=0).x, toy("moons", 2000, seed=1).x
    torch.manual_seed(0)
    net = MLP(2, width=64, depth=2)
    model = Trainer(
        Preconditioned(net, sde), data, steps=400, optim=Optim(batch_size=256, lr=4e-3)
    ).fit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = ReverseSampler(sde, model, steps=30).sample((2000, 2), seed=0)
    assert (x.std(0) / data.std(0) - 1).abs().max() < 0.1
    assert float(x.abs().max()) < 1.5 * float(data.abs().max())
    assert sliced_wasserstein(x, other) < 0.15  # 0.03 for real data, 0.5 for a Gaussian


# Data that are plainly not in model units


def trainer(x: Any, sde: SDE | None = None, **options: Any) -> Trainer:
    shape = tuple(Data.of(x).x.shape[1:])
    net = MLP(shape[0], width=8) if len(shape) == 1 else nn.Conv2d(shape[0], shape[0], 1)
    return Trainer(Preconditioned(net, sde or VPSDE()), x, **grouped(steps=1, **options))


FOREIGN: dict[str, tuple[Any, SDE]] = {
    "far from 0": (drawn(100) * 1000 + 5000, VPSDE()),
    "floats of 0 to 255": (torch.rand(50, 3, 4, 4) * 255, VPSDE()),
    "tiny": (drawn(100) * 1e-3, FlowSDE()),
    "columns that cancel": (drawn(100) + torch.tensor([1e3, -1e3]), VPSDE()),
    "large, under EDM": (torch.rand(50, 3, 4, 4) * 255, EDMSDE()),
    "below the least noise": (drawn(100) * 1e-3, VESDE()),
    "small beside the noise": (drawn(100), LinearSDE(lambda t: -5.0, lambda t: 300.0)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_data_that_are_not_in_model_units_are_refused(name: str) -> None:
    x, sde = FOREIGN[name]
    remedy = r"subtract 1, or .*load_data\(folder\)" if x.ndim == 4 else r"standardised\(\)"
    with pytest.raises(ValueError, match=rf"data: .*model units.*{remedy}.*any_scale"):
        trainer(x, sde)
    trainer(x, sde, any_scale=True)
    if name not in ("small beside the noise",):
        made = Data.of(x).standardised()
        ready = trainer(made)
        assert ready.summary.scaling is made.scaling


def test_the_refusal_says_which_mean_is_too_large() -> None:
    x = torch.rand(50, 1, 2, 2) * torch.tensor([[40.0, 255.0], [40.0, 40.0]])
    means = x.double().mean(0).flatten()
    spread = float((x.double() - x.double().mean(0)).square().mean().sqrt())
    got = (
        f"got mean {float(means.mean()):.4g} (of an entry up to {float(means.max()):.4g}) and "
        f"standard deviation {spread:.4g} about the mean of each entry, where"
    )
    with pytest.raises(ValueError, match=re.escape(got)):
        trainer(x)
    with pytest.raises(ValueError, match=r"got mean 200 and standard deviation \S+, where"):
        trainer((drawn(100, 1) - drawn(100, 1).mean()) + 200)


@pytest.mark.parametrize("x", [drawn(64, 16) + 100, -255 * drawn(64, 16).sigmoid()])
def test_fields_are_not_taken_for_pictures_from_0_to_255(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"standardised\(\)") as refusal:
        trainer(x.reshape(64, 1, 4, 4))
    assert "127.5" not in str(refusal.value)


NATIVE: dict[str, tuple[Any, SDE]] = {
    "as it should be": (drawn(100), VPSDE()),
    "not quite": (0.3 * drawn(100) + 1.5, VPSDE()),
    "one sample": (torch.ones(1, 2), VPSDE()),
    "dark pictures": (
        Data(torch.randint(13, (50, 1, 4, 4)) * (2 / 255) - 1, quantisation=Quantisation(256)),
        VPSDE(),
    ),
    "a range made for it": (torch.rand(50, 3, 4, 4) * 255, VESDE(sigma_max=3000.0)),
    "small, and a range made for it": (0.01 * drawn(100), VESDE(1e-4, 1.0)),
    "of the size of the noise": (60 * drawn(100), LinearSDE(lambda t: -5.0, lambda t: 300.0)),
}


@pytest.mark.parametrize("name", NATIVE)
def test_data_that_suit_their_schedule_are_taken(name: str) -> None:
    x, sde = NATIVE[name]
    trainer(x, sde)


# Samples that have left the data


class Grown(ScoreModel):
    """The exact model of Gaussian data, but of `size` times their spread."""

    def __init__(self, size: float, data: DataSummary | None) -> None:
        super().__init__()
        self.sde = VPSDE()
        self.inner = Gaussian(torch.zeros(2), torch.tensor(size**2)).under(self.sde)
        self.data = data

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return self.inner.predict(node, x)


class Wrapped(ScoreModel):
    """A wrapper of a user's own, which knows nothing of the data itself."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model, self.sde = model, model.sde

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return self.model.predict(node, x, cond)


KNOWN = summarise(drawn(5000))


@pytest.mark.parametrize("n", [2, 16, 1000])
def test_samples_far_off_the_data_are_told_with_remedies(n: int) -> None:
    sampler = ReverseSampler(VPSDE(), Grown(30.0, KNOWN), "ddim", steps=20)
    with pytest.warns(DataRangeWarning, match=rf"of {n} samples.*range.*train longer.*auto_sde"):
        sampler.sample((n, 2), seed=0)
    stochastic = ReverseSampler(VPSDE(), Grown(30.0, KNOWN), "ancestral", steps=20)
    with pytest.warns(DataRangeWarning) as told:
        stochastic.solve((100, 2), seed=0, batch_size=10)
    assert len(told) == 1 and "auto_sde" not in str(told[0].message)


def test_samples_that_spread_too_wide_within_the_range_are_told() -> None:
    wide = summarise(torch.cat([drawn(5000), torch.tensor([[-30.0, -30.0], [30.0, 30.0]])]))
    sampler = ReverseSampler(VPSDE(), Grown(4.0, wide), "ddim", steps=20)
    with pytest.warns(DataRangeWarning, match=r"standard deviation of .* times"):
        sampler.sample((1000, 2), seed=0)


@pytest.mark.parametrize(
    ("samples", "values", "told"), [(100, 1, False), (100, 2, True), (1, 20, False), (5, 20, True)]
)
def test_how_many_samples_and_values_are_off_before_it_is_told(
    samples: int, values: int, told: bool
) -> None:
    """5 % of 20 values, and 2 % of 100 samples unless it may be chance; of 20 samples, one may."""
    known = DataSummary(1000, (20,), mean=0.0, std=1.0, low=-3.0, high=3.0)
    x = torch.zeros(100 if samples == 100 else 20, 20)
    x[:samples, :values] = 4.6  # a quarter of 6 beyond 3 is 4.5
    assert (known.departure(x) is not None) == told
    assert known.departure(x * (4.4 / 4.6)) is None


@pytest.mark.parametrize("n", [1, 2, 16, 1000])
def test_sound_samples_raise_no_alarm(n: int) -> None:
    sampler = ReverseSampler(VPSDE(), Grown(1.0, KNOWN), "ancestral", steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(200 // n + 1):
            sampler.sample((n, 2), seed=seed)
        ReverseSampler(VPSDE(), Grown(30.0, None), steps=5).sample((n, 2), seed=0)
        # Noise that was not taken off is no fault of the model.
        noisy = {"denoise": False, "t_end": 0.9}
        ReverseSampler(VPSDE(), Grown(0.1, summarise(0.1 * drawn(500))), **noisy).sample((n, 2))


@pytest.mark.parametrize("n", [1, 2, 4, 16, 64, 1000])
def test_draws_of_the_data_themselves_raise_no_alarm(n: int) -> None:
    """Also where tails are heavy: of 150 sets, none, or one of a hundred by the rule itself."""
    generator = torch.Generator().manual_seed(n)
    normal, chi = (torch.randn(40_000, k, generator=generator) for k in (4, 3))
    heavy = normal / chi.square().mean(1, keepdim=True).sqrt()  # Student's t with 3 degrees
    for x in (heavy, normal.exp(), toy("moons", 40_000).x):
        known = summarise(x[:5000])
        sets = x[5000:].reshape(-1)[: 150 * n * x.shape[1]].reshape(-1, n, x.shape[1])
        assert sum(known.departure(one) is not None for one in sets) <= 1


def test_a_class_of_its_own_spread_raises_no_alarm() -> None:
    """One wide class among nine narrow ones: its samples spread wider than those of all."""
    std = torch.tensor([3.0] + [0.1] * 9).repeat(500)[:, None]
    x = std * drawn(5000)
    label = torch.arange(10).repeat(500)
    known = summarise(Data(x, {"label": label}, classes=10))
    sampler = ReverseSampler(VPSDE(), Grown(3.0, known), "ancestral", steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.sample((1000, 2), seed=0, cond={"label": torch.zeros(1000).long()})
    with pytest.warns(DataRangeWarning):
        sampler.sample((1000, 2), seed=0, cond={"label": torch.arange(1000) % 10})


def test_wrappers_know_the_data_of_what_they_wrap() -> None:
    model = Grown(30.0, KNOWN)
    start = AnalyticStart(model, Gaussian(torch.zeros(2), torch.ones(())).under(model.sde), 0.9)
    for outer in (Wrapped(model), start, Wrapped(start)):
        assert summary_of(outer) is KNOWN
        with pytest.warns(DataRangeWarning):
            ReverseSampler(VPSDE(), outer, "ddim", steps=5).sample((20, 2), seed=0)
    assert summary_of(Wrapped(Grown(1.0, None))) is None


def test_a_run_of_shards_tells_once(tmp_path: Path) -> None:
    net = MLP(2, width=8)
    with torch.no_grad():
        net.exit.bias.fill_(50.0)
    model = Preconditioned(net, VPSDE(), "v").eval()
    model.data = KNOWN
    sampler = ReverseSampler(VPSDE(), load(save(model, tmp_path / "model")), "ddim", steps=3)
    with pytest.warns(DataRangeWarning) as told:
        sample_to(sampler, tmp_path / "samples", 40, (2,), files=ShardFiles(shard=10))
    assert len(told) == 1 and str(told[0].message).startswith("samples: 100 % of 10 samples")
    assert math.isfinite(sampler.model.data.std)
