"""Numbers of every precision and type, labels, copies, modes of torch, paths and reprs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from entries import ENTRIES, SDE, a_model, by_hand, some_data
from groups import grouped
from torch import Tensor, nn

from scoresde import (
    DDPM,
    VPSDE,
    Empirical,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    LinearSDE,
    Preconditioned,
    ReverseSampler,
    Trainer,
    dsm_loss,
    elbo,
    encode,
    load,
    log_prob,
    save,
)
from scoresde.data import Data, load_data, moons, samples, split
from scoresde.fokker_planck import score_fpe_residual
from scoresde.nets import MLP, UNet, UViT
from scoresde.noise import BrownianPath, Independent
from scoresde.options import Optim, Tolerances
from scoresde.sampler import sample_to
from scoresde.sde import FunctionSDE
from scoresde.training import posthoc_ema, read_config

HALVES = [torch.bfloat16, torch.float16]


ADAPTIVE = ("sample adaptively", "encode", "log_prob")


# Precision


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_network_of_half_precision_answers_as_in_float32_up_to_its_rounding(
    entry: str, half: torch.dtype
) -> None:
    truth = ENTRIES[entry](a_model(), some_data())
    got = ENTRIES[entry](a_model().to(half), some_data())
    assert got.dtype == truth.dtype
    assert torch.allclose(got, truth, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("entry", ENTRIES)
def test_data_of_another_precision_than_the_network(entry: str) -> None:
    model, x = a_model(), some_data()
    truth = ENTRIES[entry](model, x).double()
    if "dsm" not in entry:  # which draws other noise
        close = 2e-3 if entry in ADAPTIVE else 1e-4  # the errors that their tolerances leave
        assert torch.allclose(ENTRIES[entry](model, x.double()).double(), truth, atol=close)
    for other in (x.double(), x.half(), x.bfloat16()):
        got = ENTRIES[entry](model, other)
        assert got.dtype in (torch.float32, torch.float64)
        assert torch.isfinite(got).all()


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_a_state_of_half_precision_where_it_is_asked_for(half: torch.dtype) -> None:
    sampler = ReverseSampler(SDE, a_model().to(half), "ddim", steps=5)
    assert sampler.sample((3, 2), seed=0, dtype=half).dtype == half


def test_a_network_of_half_precision_hears_time_in_float32() -> None:
    heard = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            heard.append((x.dtype, t.dtype, float(t[0])))
            return x * self.weight

    answer = Preconditioned(Net(), SDE)(0.12345678, torch.ones(1, 2)).eps
    assert heard == [(torch.bfloat16, torch.float32, float(torch.tensor(0.12345678)))]
    assert answer.dtype == torch.float32


def test_a_module_inside_a_function_score_is_called_in_its_precision() -> None:
    class Score(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x)
            return out

    for dtype in (torch.bfloat16, torch.float64):
        model = FunctionScore(SDE, Score().to(dtype))
        assert ReverseSampler(SDE, model, steps=3).sample(
            (2, 2), x_init=torch.ones(2, 2)
        ).dtype == (torch.float32)


@pytest.mark.parametrize("weights", [torch.float32, torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("data", [torch.float32, torch.float64, *HALVES], ids=str)
def test_training_keeps_the_precision_of_the_weights(
    weights: torch.dtype, data: torch.dtype
) -> None:
    x = some_data(16).to(data)
    model = Trainer(
        a_model().to(weights), x, steps=2, optim=Optim(batch_size=8), validation=x
    ).fit()
    assert {p.dtype for p in model.parameters()} == {weights}
    assert all(torch.isfinite(p).all() for p in model.parameters())


SEEDS = [
    np.int64(5),
    np.uint8(5),
    np.array(5),
    torch.tensor(5),
    torch.tensor(5, dtype=torch.int32),
]


SEEDED: dict[str, Callable[[Any], Tensor]] = {
    "sample": lambda s: ReverseSampler(SDE, lambda t, x: -x, steps=3).sample((2, 2), seed=s),
    "path": lambda s: ReverseSampler(SDE, lambda t, x: -x, "shark", steps=3).sample(
        (2, 2), seed=s, noise="path"
    ),
    "first": lambda s: ReverseSampler(SDE, lambda t, x: -x, steps=3).sample(
        (2, 2), seed=0, first=s
    ),
    "log_prob": lambda s: (
        log_prob(a_model(), some_data(), seed=s, tolerances=Tolerances(0.1, 0.1)).nats
    ),
    "elbo": lambda s: elbo(a_model(), some_data(), decoder="noised", steps=4, seed=s).nats,
    "Trainer": lambda s: next(
        Trainer(a_model(), some_data(9), steps=1, seed=s).fit().parameters()
    ).detach(),
    "moons": lambda s: moons(10, seed=s).x,
    "Data.split": lambda s: Data.of(some_data(9)).split(0.5, seed=s)[0].x,
    "split": lambda s: split(Data.of(some_data(9)), 0.5, seed=s)[0].x,
    "oracle": lambda s: Gaussian(torch.zeros(2), torch.ones(())).sample(3, seed=s),
    "ancestral_sample": lambda s: DDPM.linear(5).ancestral_sample(
        DDPM.linear(5).score_model(MLP(2, width=8)), (2, 2), seed=s
    ),
}


# Scalars


@pytest.mark.parametrize("entry", SEEDED)
def test_a_seed_of_numpy_or_torch_is_the_seed_of_python(entry: str) -> None:
    truth = SEEDED[entry](5)
    for seed in SEEDS:
        assert torch.equal(SEEDED[entry](seed), truth)


@pytest.mark.parametrize("entry", SEEDED)
@pytest.mark.parametrize("seed", [True, np.True_, 5.0, np.float32(5), torch.tensor(5.0), -1, "5"])
def test_what_is_no_integer_is_no_seed(entry: str, seed: Any) -> None:
    name = "first" if entry == "first" else "seed"
    with pytest.raises((TypeError, ValueError), match=f"{name}: expected an integer"):
        SEEDED[entry](seed)


@pytest.mark.parametrize("kind", [np.int64, np.array, torch.tensor])
def test_sizes_and_numbers_of_numpy_and_torch(kind: Any) -> None:
    sampler = ReverseSampler(SDE, lambda t, x: -x, "ddim", steps=kind(4), eta=kind(0))
    assert torch.equal(
        sampler.sample((kind(3), kind(2)), seed=0, batch_size=kind(2)),
        ReverseSampler(SDE, lambda t, x: -x, "ddim", steps=4).sample((3, 2), seed=0),
    )
    optim = Optim(batch_size=kind(4), lr=kind(1))
    trainer = Trainer(a_model(), some_data(9), steps=kind(2), optim=optim)
    assert (trainer.steps, optim.batch_size, optim.lr) == (2, 4, 1.0)


@pytest.mark.parametrize("steps", [True, np.True_, torch.tensor(True), 4.0, np.ones(2, int)])
def test_what_is_no_whole_number_is_refused_by_name(steps: Any) -> None:
    with pytest.raises(TypeError, match="steps: expected a positive integer"):
        ReverseSampler(SDE, lambda t, x: -x, steps=steps)


# Labels


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int16])
@pytest.mark.parametrize("array", [False, True])
def test_labels_of_any_integers(kind: torch.dtype, array: bool) -> None:
    sampler = ReverseSampler(SDE, a_model(classes=3), "ddim", steps=3)
    label = torch.tensor([0, 2, 1])
    other: Any = label.to(kind).numpy() if array else label.to(kind)
    truth = sampler.sample((3, 2), seed=0, cond={"label": label})
    assert torch.equal(sampler.sample((3, 2), seed=0, cond={"label": other}), truth)


LABELLED: dict[str, Callable[[Any, Any], Any]] = {
    "sample": lambda m, c: ReverseSampler(SDE, m, "ddim", steps=3).sample((3, 2), cond=c),
    "encode": lambda m, c: encode(SDE, m, some_data(), cond=c),
    "log_prob": lambda m, c: log_prob(m, some_data(), tolerances=Tolerances(0.1, 0.1), cond=c),
    "elbo": lambda m, c: elbo(m, some_data(), decoder="noised", steps=2, cond=c),
    "dsm_loss": lambda m, c: dsm_loss(m, some_data(), cond=c),
    "Trainer": lambda m, c: Trainer(m, (some_data(), c), steps=1),
}


@pytest.mark.parametrize("entry", LABELLED)
@pytest.mark.parametrize(
    ("cond", "named"),
    [
        ({"label": torch.tensor([1, 2, 3])}, "classes from 0 to 2, or -1 for no label, got 3"),
        ({"label": torch.tensor([0, 1, -2])}, "classes from 0 to 2"),
        ({"label": torch.tensor([0.0, 1.0, 2.0])}, r"cond\['label'\]: expected integers of shape"),
        ({"label": torch.tensor([[0], [1], [2]])}, r"cond\['label'\]: expected integers of shape"),
        ({"labels": torch.tensor([0, 1, 2])}, "cond: expected one of 'label', .*'label'"),
    ],
)
def test_labels_that_the_model_lacks_are_refused_at_the_border(
    entry: str, cond: Any, named: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=named):
        LABELLED[entry](a_model(classes=3), cond)


@pytest.mark.parametrize("entry", LABELLED)
def test_the_documented_null_label_is_taken(entry: str) -> None:
    LABELLED[entry](a_model(classes=3), {"label": torch.tensor([0, -1, 2])})


@pytest.mark.parametrize(
    "net", [MLP(2, width=8, classes=3), UNet(2, width=8, classes=3), UViT(2, size=4, classes=3)]
)
def test_a_label_beyond_the_classes_never_means_no_label(net: nn.Module) -> None:
    x = torch.zeros(1, 2) if isinstance(net, MLP) else torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"label: .*from 0 to 2, or -1 .* got 3"):
        net(x, torch.ones(1), torch.tensor([3]))


# Copies and processes


def things() -> dict[str, Any]:
    model = a_model(classes=3)
    chain = DDPM.linear(5)
    mixture = GaussianMixture(torch.zeros(2, 2), torch.ones(2))
    own = LinearSDE(lambda t: -1.0 + 0 * t, lambda t: 1.0)
    sampler = ReverseSampler(SDE, model, "unipc_3", steps=5)
    return {
        "net": model.net,
        "sde": SDE,
        "linear sde": own,
        "chain": chain,
        "model": model,
        "edm model": a_model(predicts="edm"),
        "model of a chain": chain.score_model(MLP(2, width=8)),
        "model of a linear sde": Preconditioned(MLP(2, width=8), own),
        "oracle": mixture,
        "oracle's model": mixture.under(SDE),
        "sampler": sampler,
        "noise": Independent(3),
        "path": BrownianPath(3, SDE),
        "data": moons(10),
        "solution": sampler.solve((2, 2), seed=0),
        "likelihood": log_prob(model, some_data(), tolerances=Tolerances(0.1, 0.1)),
        "bound": elbo(model, some_data(), decoder="noised", steps=2),
        "calibration": sampler.calibrate((2,), trajectories=12, method="equidistribute"),
        "trainer": Trainer(model, some_data(9), steps=1),
    }


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_everything_can_be_copied_and_sent_to_another_process(copied: Any) -> None:
    for name, thing in things().items():
        again = copied(thing)
        assert type(again) is type(thing), name
        if name == "sampler":
            assert torch.equal(again.sample((3, 2), seed=0), thing.sample((3, 2), seed=0))
        if name == "calibration":
            again.check(SDE, a_model(classes=3))


# Modes of torch


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("entry", ENTRIES)
def test_modes_without_gradients_change_nothing(entry: str, mode: Any) -> None:
    truth = ENTRIES[entry](a_model(), some_data())
    with mode():
        got = ENTRIES[entry](a_model() if mode is torch.no_grad else MODEL, some_data())
    assert torch.equal(got, truth)


MODEL = a_model()


def test_tensors_of_inference_mode_are_differentiated() -> None:
    """A cast to another precision would be an ordinary tensor; here there is none."""
    model, energy = a_model().double(), FunctionScore(SDE, by_hand)
    with torch.inference_mode():
        x = some_data().double()
        for asked in (model, energy):
            assert log_prob(asked, x, divergence="exact").nats.isfinite().all()
            assert score_fpe_residual(asked, 0.3, x).isfinite().all()
    assert x.is_inference()
    assert log_prob(model, x, divergence="exact").nats.isfinite().all()


def test_weights_made_under_inference_mode_are_refused_where_they_cannot_serve() -> None:
    with torch.inference_mode():
        model = a_model()
    assert ENTRIES["sample"](model, some_data()).shape == (3, 2)
    with pytest.raises(ValueError, match=r"model: .*outside torch.inference_mode.*outside"):
        log_prob(model, some_data(), tolerances=Tolerances(0.1, 0.1))
    with pytest.raises(ValueError, match=r"model: .*outside torch.inference_mode.*outside"):
        Trainer(model, some_data(9), steps=1).fit()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_training_brings_its_own_gradients(mode: Any) -> None:
    truth = Trainer(a_model(), some_data(9), steps=2).fit()
    model = a_model()
    with mode():
        got = Trainer(model, some_data(9), steps=2).fit()
    for a, b in zip(truth.parameters(), got.parameters(), strict=True):
        assert torch.equal(a, b) and not b.is_inference()


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_default_device_changes_nothing(entry: str) -> None:
    """Tensors that are made without a device would be on "meta", and nothing could read them."""
    truth, model, x = ENTRIES[entry](a_model(), some_data()), a_model(), some_data()
    with torch.device("meta"):
        got = ENTRIES[entry](model, x)
    assert torch.equal(got, truth)


def test_a_default_device_changes_no_data_training_or_schedule() -> None:
    model, x = a_model(), some_data(9)
    truth = Trainer(copy.deepcopy(model), x, steps=2, validation=x).fit()
    points, own = moons(10).x, LinearSDE(lambda t: -1.0 - t, lambda t: 1.0)
    draws = GaussianMixture(torch.zeros(2, 2), torch.ones(2)).sample(3)
    with torch.device("meta"):
        got = Trainer(model, x, steps=2, validation=x, device="cpu").fit()
        assert torch.equal(moons(10).x, points)
        assert LinearSDE(lambda t: -1.0 - t, lambda t: 1.0).sigma(0.5) == own.sigma(0.5)
    mixture = GaussianMixture(torch.zeros(2, 2), torch.ones(2))
    with torch.device("meta"):
        assert torch.equal(mixture.sample(3), draws)
    for a, b in zip(truth.parameters(), got.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_default_dtype_of_float64() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = a_model()
        for entry, call in ENTRIES.items():
            assert call(model, some_data()).dtype == torch.float64, entry
        trained = Trainer(model, some_data(9).float(), steps=2).fit()
        assert {p.dtype for p in trained.parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(before)


# The same SDE


class Drift:
    """A drift with a state: an object that equals itself alone."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return -self.rate * x


def one(t: Tensor) -> float:
    return 1.0


def test_a_copied_sde_is_that_of_the_model() -> None:
    own = LinearSDE(lambda t: -1.0 - t, lambda t: 1.0)
    for sde in (own, FunctionSDE(Drift(1.0), one), SDE):
        for copied in (copy.deepcopy(sde), pickle.loads(pickle.dumps(sde))):
            model = FunctionScore(copied, lambda t, x: -x)
            out = ReverseSampler(sde, model, "euler_maruyama", steps=3)
            assert out.sample((2, 2), seed=0, x_init=torch.ones(2, 2)).shape == (2, 2)


@pytest.mark.parametrize(
    ("sde", "other"),
    [
        (FunctionSDE(Drift(1.0), one), FunctionSDE(Drift(2.0), one)),
        (FunctionSDE(Drift(1.0), one), FunctionSDE(Drift(1.0), lambda t: 2.0)),
        (LinearSDE(lambda t: -1.0 - t, one), LinearSDE(lambda t: -1.0 - 1.01 * t, one)),
        (VPSDE(), VPSDE(0.1, 20.1)),
        (VPSDE(), FunctionSDE(Drift(1.0), one)),
    ],
)
def test_another_sde_is_refused(sde: Any, other: Any) -> None:
    with pytest.raises(ValueError, match=r"sde: expected the model's own.*model\.sde"):
        ReverseSampler(sde, FunctionScore(other, lambda t, x: -x), "euler_maruyama", steps=3)


# Paths


@pytest.mark.parametrize("kind", [str, Path])
def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir(), here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    model = a_model()
    save(model, kind("~/model"))
    assert isinstance(load(kind("~/model")), Preconditioned)
    assert read_config(kind("~/model"))["format"] == "scoresde checkpoint"
    Trainer(model, some_data(9), **grouped(steps=2, out=kind("~/run"), snapshot_every=1)).fit()
    assert isinstance(load(kind("~/run")), Preconditioned)
    posthoc_ema(kind("~/run"), 0.1)
    sample_to(ReverseSampler(SDE, model, "ddim", steps=2), kind("~/drawn"), 4, (2,))
    assert len(samples(kind("~/drawn"))) == 4
    np.save(home / "x.npy", some_data(9).numpy())
    assert len(load_data(kind("~/x.npy"))) == 9
    assert list(here.iterdir()) == []


def test_what_is_no_path_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="path: expected a path, got 3"):
        save(a_model(), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"device: expected a device of this machine, got 'cuda"):
        load("runs/none", device="cuda:99")


# What is printed


def test_no_repr_prints_tensors() -> None:
    model = a_model()
    sampler = ReverseSampler(SDE, model, "unipc_3", steps=7)
    mixture = GaussianMixture(torch.zeros(50, 2), torch.ones(50))
    x = some_data(50)
    shown = {
        "solution": repr(sampler.solve((50, 2), seed=0, keep_path=True)),
        "likelihood": repr(log_prob(model, x, tolerances=Tolerances(0.1, 0.1))),
        "mixture": repr(mixture),
        "gaussian": repr(Gaussian(torch.zeros(50), torch.ones(50))),
        "empirical": repr(Empirical(x)),
        "bound": repr(elbo(model, x, decoder="noised")),
        "latent": repr(encode(SDE, model, x, check=True)),
        "trainer": repr(Trainer(model, x, steps=9)),
        "sampler": repr(sampler),
    }
    for name, text in shown.items():
        assert len(text) < 1000 and "tensor([" not in text and "\n" not in text, name
    assert "(50, 2)" in shown["solution"] and "steps=9" in shown["trainer"]
