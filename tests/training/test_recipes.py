"""Recipes: what a run does about everything that its options leave open."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from torch import nn
from training_models import points, run, same, small, trained, weights

from scoresde.data import Data, summarise
from scoresde.losses import LEAST_NOISE, TIME, BoundTime, ImportanceTime, UniformTime
from scoresde.model import Preconditioned
from scoresde.options import OBJECTIVES, Loss, Optim
from scoresde.quantisation import Quantisation
from scoresde.sde import VPSDE, FlowSDE
from scoresde.training import EMA, RECIPES, Recipe, Trainer, recipe, recipe_for
from scoresde.training.ema import exponent
from scoresde.training.processes import computes_bf16, uses_bf16

# The table


def test_there_is_a_recipe_for_every_kind_of_data_and_objective() -> None:
    assert {*RECIPES} == {(kind, goal) for kind in recipe.KINDS for goal in OBJECTIVES}
    shapes = [(2,), (1, 64), (3, 8, 8), (1, 4, 4, 4)]
    assert [recipe.kind_of(shape) for shape in shapes] == [*recipe.KINDS]
    for shape, kind in zip(shapes, recipe.KINDS, strict=True):
        assert recipe_for(shape, "likelihood") is RECIPES[kind, "likelihood"]
    with pytest.raises(ValueError, match=r"objective: .*did you mean 'likelihood'"):
        recipe_for((2,), "likelyhood")


def test_a_run_leaves_nothing_open_and_keeps_what_was_asked() -> None:
    found = Trainer(small(), points(), steps=100)
    recipe = found.recipe
    assert recipe is RECIPES["vector", "quality"]
    open_ones = {f.name for f in fields(Optim) if getattr(found.optim, f.name) is None}
    assert open_ones == {"ema"} and found.optim.ema_width == recipe.ema_width
    assert found.optim.warmup == 5 and found.loss.weighting == recipe.weighting
    asked = Optim(lr=0.5, clip=0, ema=0.5, batch_size=7, warmup=0, weight_decay=0, compile=True)
    kept = Trainer(small(), points(), steps=100, optim=asked).optim
    assert all(getattr(kept, f.name) == v for f in fields(Optim) if (v := getattr(asked, f.name)))
    assert (kept.clip, kept.warmup, kept.weight_decay, kept.ema_width) == (0, 0, 0, None)
    long = recipe.optim(Optim(), 10**6, small())
    assert long.warmup == recipe.longest_warmup == 1000


def test_muon_of_a_recipe_is_for_networks_with_hidden_matrices_alone() -> None:
    muon = Recipe(optimizer="muon")
    assert muon.optim(Optim(), 1, small()).optimizer == "muon"
    plain = nn.Linear(2, 2)
    assert muon.optim(Optim(), 1, plain).optimizer == "adamw"
    assert muon.optim(Optim(optimizer="muon"), 1, plain).optimizer == "muon"  # Update refuses it


def test_adamw_in_the_place_of_muon_has_a_rate_of_its_own() -> None:
    muon, plain = Recipe(optimizer="muon", lr=0.5, adamw_lr=0.25), nn.Linear(2, 2)
    assert muon.optim(Optim(), 1, small()).lr == 0.5
    assert muon.optim(Optim(optimizer="muon"), 1, plain).lr == 0.5
    assert muon.optim(Optim(), 1, plain).lr == 0.25
    assert muon.optim(Optim(optimizer="adamw"), 1, small()).lr == 0.25
    assert muon.optim(Optim(optimizer="adamw", lr=0.1), 1, small()).lr == 0.1
    assert Recipe(lr=0.5, adamw_lr=0.25).optim(Optim(), 1, small()).lr == 0.5
    assert all(r.adamw_lr == 2e-3 for r in RECIPES.values())


# The objective


def discrete() -> Data:
    quantisation = Quantisation(5)
    k = torch.arange(5).repeat(8)[:, None].repeat(1, 2)
    return Data(quantisation.encode(k), quantisation=quantisation)


def test_the_objective_likelihood_weights_by_it_and_begins_at_the_noise_of_the_levels() -> None:
    loss = Loss(objective="likelihood")
    found = Trainer(small(), discrete(), steps=1, loss=loss).loss
    assert found.weighting == "likelihood"
    std = summarise(discrete()).std
    assert found.time == BoundTime(std=std, least=LEAST_NOISE * 0.5)
    std = summarise(points()).std
    assert Trainer(small(), points(), steps=1, loss=loss).loss.time == BoundTime(std=std)
    own = Loss(objective="likelihood", time=UniformTime(), weighting="v")
    kept = Trainer(small(), discrete(), steps=1, loss=own).loss
    assert (kept.time, kept.weighting) == (UniformTime(), "v")
    quality = Trainer(small(), points(), steps=1).loss
    assert quality.time == TIME.fitted(summarise(points()).std)


@pytest.mark.parametrize("sde", [VPSDE(), FlowSDE()])
def test_importance_times_begin_at_the_least_noise_and_keep_the_mean(sde: VPSDE) -> None:
    """int f dt over [t_0, T] / (T - t_0) for f = t, where sigma/alpha is `least` at t_0."""
    time = ImportanceTime(least=0.05)
    t, weight = time.sample(sde, 200_000, torch.Generator().manual_seed(0))
    first = float(sde.time_of(-math.log(0.05)))
    assert float(sde.sigma(first) / sde.alpha(first)) == pytest.approx(0.05, rel=1e-6)
    assert first <= float(t.min()) < first * 1.01
    assert float((weight * t).mean()) == pytest.approx((first + sde.T) / 2, rel=2e-3)
    assert float(weight.mean()) == pytest.approx(1.0, rel=2e-3)
    least = ImportanceTime(least=1e-9).sample(VPSDE(), 1000, torch.Generator())[0]
    assert float(least.min()) >= VPSDE().t_min


# The average as a share of the run


def test_an_average_of_a_width_weights_iterates_by_a_power_of_their_number() -> None:
    net = nn.Linear(1, 1, bias=False)
    for width in (0.05, 0.09, 0.2):
        ema, gamma = EMA(net, width=width), exponent(width)
        values = torch.linspace(-1, 3, 40, dtype=torch.float64).square()
        for value in values:
            nn.init.constant_(net.weight, float(value))
            ema.update(net)
        steps = torch.arange(1, 41, dtype=torch.float64)
        # beta products telescope: the weight of s is s^(g+1) - (s-1)^(g+1), about s^g
        shares = steps ** (gamma + 1) - (steps - 1) ** (gamma + 1)
        expected = float((shares * values).sum() / shares.sum())
        assert ema.module.weight.item() == pytest.approx(expected, rel=1e-5)
        far = torch.arange(1, 10_001, dtype=torch.float64) / 10_000
        share = far**gamma / (far**gamma).sum()
        mean = (share * far).sum()
        assert float((share * (far - mean) ** 2).sum().sqrt()) == pytest.approx(width, rel=1e-3)
    with pytest.raises(ValueError, match=r"width: expected None beside decay"):
        EMA(net, 0.9, width=0.1)


def test_a_width_of_009_is_the_warm_up_of_a_decay() -> None:
    ema = EMA(nn.Linear(1, 1), width=0.09)
    for n in (100, 1000, 10_000):
        ema.restore(n)
        assert ema.next_decay == pytest.approx((1 + n) / (10 + n), abs=0.5 / n)


def test_ema_zero_keeps_no_average() -> None:
    raw = trained(model=(model := small()), ema=0)
    assert same(raw, model) and raw is not model
    assert not same(trained(model=(other := small())), other)
    assert weights(raw).keys() == weights(model).keys()


# Precision


def test_auto_is_bf16_where_the_device_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for native in (True, False):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native}
        )
        assert computes_bf16(cpu) == uses_bf16("auto", cpu) == native
        assert not uses_bf16("no", cpu)
    expected = r"precision: expected 'auto' or 'no' on cpu, .*, got 'bf16'; pass precision='auto'"
    with pytest.raises(ValueError, match=expected):
        run(None, precision="bf16").fit()
    mps = torch.device("mps")  # nothing is known of it, so it is taken at the user's word
    assert computes_bf16(mps) is None and not uses_bf16("auto", mps) and uses_bf16("bf16", mps)
    auto, no = (run(None, precision=name, log_every=1) for name in ("auto", "no"))
    assert same(auto.fit(), no.fit())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    auto, half = (run(None, precision=name, log_every=1) for name in ("auto", "bf16"))
    assert same(auto.fit(), half.fit()) and auto.history != no.history


def test_a_model_that_was_built_for_volumes_or_more_axes_has_a_recipe() -> None:
    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.scale * x

    x = torch.randn(8, 1, 2, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(Preconditioned(Zero(), VPSDE()), x, steps=2)
    assert trainer.recipe is RECIPES["volume", "quality"]
    trainer.fit()
