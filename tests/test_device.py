"""Devices without a device: training and sampling on a simulated accelerator.

FakeTensorMode runs the real Python code on tensors that carry shape, dtype and device but no
data, and raises where devices mix or the host would wait for the device. `pytest --device cuda`
runs the same samplers on a real GPU and compares with the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from scoresde import (
    SDE,
    VESDE,
    VPSDE,
    EulerMaruyama,
    FlowSDE,
    FunctionScore,
    Grid,
    Preconditioned,
    ReverseSampler,
    ReverseSDE,
    ScoreModel,
    dsm_loss,
)
from scoresde.guidance import (
    AutoGuidance,
    ClassifierFree,
    ClassifierGuided,
    NoiseClassifier,
    Tempered,
)
from scoresde.losses import WEIGHTINGS
from scoresde.nets import MLP, UNet, UViT
from scoresde.noise import Independent
from scoresde.options import Optim
from scoresde.sampler.plan import as_solver
from scoresde.schedule.grid import log_snr
from scoresde.solvers import SOLVERS, Solver, StepSolver
from scoresde.training import Update

NATIVE = [name for name, (solver, _) in SOLVERS.items() if isinstance(solver, StepSolver)]
NETS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "mlp": lambda: (MLP(3, width=16, classes=4), (3,)),
    "unet": lambda: (UNet(1, width=8, multipliers=(1, 2), classes=4), (1, 8, 8)),
    "uvit": lambda: (UViT(1, size=8, width=16, depth=2, heads=2, classes=4), (1, 8, 8)),
}


def fake() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=False)


def walk(solver: Solver, model: Any, eta: float, shape: tuple[int, ...], grid: Grid) -> Tensor:
    """The sampling loop as `ReverseSampler` runs it, short of its last check of the result."""
    x = torch.empty(shape, device="lazy")
    label = torch.zeros(shape[0], dtype=torch.int64, device="lazy")
    process = ReverseSDE(model.sde, model, eta, {"label": label})
    with torch.no_grad():
        noise = Independent(0)
        start = model.sde.sample_prior(noise.prior(x))
        solution = solver.solve(process, start, grid, noise=noise)
        return process.predict(model.sde.at(grid.end), solution.x).x0


@pytest.mark.parametrize("name", NATIVE)
def test_native_solvers_neither_mix_devices_nor_wait(name: str) -> None:
    """Every solver with every prediction, and in every kind of family."""
    vp = VPSDE()
    every = ((vp, predicts) for predicts in ("eps", "x0", "v", "score", "flow", "edm"))
    for sde, predicts in (*every, (VESDE(), "edm"), (FlowSDE(), "flow")):
        solver, eta = as_solver(name, sde)
        with fake(), torch.device("lazy"):
            net, shape = NETS["mlp"]()
            model = Preconditioned(net, sde, predicts)
            out = walk(solver, model, eta, (5, *shape), log_snr(sde, 4))
        assert out.device.type == "lazy" and out.shape == (5, *shape), (sde, predicts)


@pytest.mark.parametrize("net", NETS)
def test_networks_sample_with_legs_and_a_path(net: str) -> None:
    sde = VPSDE()
    down = log_snr(sde, 2).times
    with fake(), torch.device("lazy"):
        made, shape = NETS[net]()
        grid = Grid((down, log_snr(sde, 2, t_start=0.5).times))
        out = walk(EulerMaruyama(), Preconditioned(made, sde), 1.0, (3, *shape), grid)
    assert out.device.type == "lazy"


def test_a_user_s_own_sde_and_score() -> None:
    sde = SDE(lambda t, x: -0.5 * (1 + t) * x, lambda t: 0.7)
    with fake(), torch.device("lazy"):
        process = ReverseSDE(sde, FunctionScore(sde, lambda t, x: -x / (1 + t)), 1.0)
        grid = Grid.of([1.0, 0.5, 0.0])
        x = torch.empty(4, 2, device="lazy")
        assert (
            EulerMaruyama().solve(process, x, grid, noise=Independent(0)).x.device.type == "lazy"
        )


GUIDED: dict[str, Callable[[Preconditioned], ScoreModel]] = {
    "classifier-free": lambda m: ClassifierFree(m, 2.0),
    "in an interval": lambda m: ClassifierFree(m, 2.0, interval=(-1.0, 1.0)),
    "by a function": lambda m: ClassifierFree(m, lambda level: 1.0 + torch.sigmoid(level)),
    "by a weaker model": lambda m: AutoGuidance(m, m, 2.0),
    "by a classifier": lambda m: ClassifierGuided(
        m, NoiseClassifier(m.sde, (1, 8, 8), 4, width=8), 2.0, conditional=True
    ),
    "tempered": lambda m: Tempered(m, 0.5, std=1.0),
}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("name", GUIDED)
def test_guidance(name: str, batched: bool) -> None:
    sde = VPSDE()
    with fake(), torch.device("lazy"):
        net, shape = NETS["unet"]()
        model = GUIDED[name](Preconditioned(net, sde))
        x = torch.empty(3, *shape, device="lazy")
        label = torch.zeros(3, dtype=torch.int64, device="lazy")
        t = torch.empty(3, device="lazy") if batched else 0.5
        with torch.no_grad():
            assert model(t, x, {"label": label}).x0.device.type == "lazy"
        out = walk(EulerMaruyama(), model, 1.0, (3, *shape), log_snr(sde, 3))
    assert out.device.type == "lazy"


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    ("weighting", "optimizer"), [*((name, "adamw") for name in WEIGHTINGS), ("v", "muon")]
)
def test_a_training_step(net: str, weighting: str, optimizer: str) -> None:
    with fake(), torch.device("lazy"):
        made, shape = NETS[net]()
        model = Preconditioned(made, VPSDE(), "v")
        update = Update(model, Optim(optimizer=optimizer))
        x = torch.empty(6, *shape, device="lazy")
        label = torch.zeros(6, dtype=torch.int64, device="lazy")
        for _ in range(2):
            loss = dsm_loss(
                model,
                x,
                weighting=weighting,
                cond={"label": label},
                cond_dropout=0.1,
                generator=torch.Generator(),
            ).mean()
            update.step(loss)
    assert loss.device.type == "lazy"


class Waits(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * float(x.sum())


class Mixes(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + torch.ones(x.shape, device="cpu")


@pytest.mark.parametrize("planted", [Waits, Mixes])
def test_a_planted_fault_in_a_network_is_seen(planted: type[nn.Module]) -> None:
    faults = (DataDependentOutputException, DynamicOutputShapeException, RuntimeError)
    with fake(), torch.device("lazy"):
        process = ReverseSDE(VPSDE(), Preconditioned(planted(), VPSDE()), 1.0)
        x = torch.empty(4, 2, device="lazy")
        with pytest.raises(faults):
            EulerMaruyama().solve(process, x, log_snr(VPSDE(), 2), noise=Independent(0))


@pytest.mark.parametrize("fault", ["item", "cpu"])
def test_a_planted_fault_in_a_solver_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from scoresde.solvers import euler

    right = euler.lincomb

    def wrong(*terms: tuple[Any, Tensor]) -> Tensor:
        out = right(*terms)
        if fault == "item":
            return out * out.flatten()[0].item()
        return out + torch.ones(out.shape, device="cpu")

    monkeypatch.setattr(euler, "lincomb", wrong)
    with fake(), torch.device("lazy"):
        net, shape = NETS["mlp"]()
        with pytest.raises((DataDependentOutputException, RuntimeError)):
            walk(
                EulerMaruyama(),
                Preconditioned(net, VPSDE()),
                1.0,
                (4, *shape),
                log_snr(VPSDE(), 2),
            )


@pytest.mark.parametrize("name", NATIVE)
def test_samples_do_not_depend_on_the_device(name: str, device: str) -> None:
    """On a GPU the noise is the CPU's, so samples agree to rounding; on the CPU a repeat does."""
    torch.manual_seed(0)
    net = MLP(3, width=16)
    sampler = ReverseSampler(VPSDE(), Preconditioned(net, VPSDE()), name, steps=5)
    here = sampler.sample((6, 3), seed=0)
    net.to(device)
    there = sampler.sample((6, 3), seed=0)
    assert there.device.type == torch.device(device).type
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)
