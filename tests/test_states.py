"""Every public entry point in every state in which code is run: it works, or it says why not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde import (
    DDPM,
    VPSDE,
    BrownianPath,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Independent,
    LinearSDE,
    Preconditioned,
    ReverseSampler,
    Trainer,
    dsm_loss,
    elbo,
    encode,
    log_prob,
)
from scoresde.data import Data, moons, split
from scoresde.nets import MLP, UNet, UViT

SDE = VPSDE()
HALVES = [torch.bfloat16, torch.float16]


def a_model(classes: int = 0, predicts: str = "v") -> Preconditioned:
    """A small network whose answers are not zero, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP(2, width=16, depth=1, classes=classes)
        nn.init.normal_(net.exit.weight, std=0.1)
    return Preconditioned(net, SDE, predicts).eval()


def some_data(n: int = 3) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1))


ENTRIES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "sample": lambda m, x: ReverseSampler(SDE, m, "ddim", steps=5).sample((3, 2), seed=0),
    "sample an SDE": lambda m, x: ReverseSampler(SDE, m, "shark", steps=5).sample((3, 2), seed=0),
    "sample adaptively": lambda m, x: ReverseSampler(SDE, m, "bosh3").sample((3, 2), seed=0),
    "sample from x_init": lambda m, x: ReverseSampler(SDE, m, "ddim", steps=5).sample(
        (3, 2), x_init=x
    ),
    "encode": lambda m, x: encode(SDE, m, x).z,
    "log_prob": lambda m, x: log_prob(m, x, rtol=0.1, atol=0.1, divergence="exact").nats,
    "elbo": lambda m, x: elbo(m, x, decoder="gaussian", steps=8, samples=1).nats,
    "dsm_loss": lambda m, x: dsm_loss(m, x, generator=torch.Generator().manual_seed(0)).detach(),
}
"""What can be asked of a model and data, as a tensor."""


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
        assert torch.allclose(ENTRIES[entry](model, x.double()).double(), truth, atol=1e-4)
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
    model = Trainer(a_model().to(weights), x, steps=2, batch_size=8, validation=x).fit()
    assert {p.dtype for p in model.parameters()} == {weights}
    assert all(torch.isfinite(p).all() for p in model.parameters())


# Scalars


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
    "log_prob": lambda s: log_prob(a_model(), some_data(), seed=s, rtol=0.1, atol=0.1).nats,
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
    trainer = Trainer(a_model(), some_data(9), steps=kind(2), batch_size=kind(4), lr=kind(1))
    assert (trainer.steps, trainer.batch_size, trainer.lr) == (2, 4, 1.0)


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
    "log_prob": lambda m, c: log_prob(m, some_data(), rtol=0.1, atol=0.1, cond=c),
    "elbo": lambda m, c: elbo(m, some_data(), decoder="noised", steps=2, cond=c),
    "dsm_loss": lambda m, c: dsm_loss(m, some_data(), cond=c),
    "Trainer": lambda m, c: Trainer(m, (some_data(), c), steps=1),
}


@pytest.mark.parametrize("entry", LABELLED)
@pytest.mark.parametrize(
    ("cond", "named"),
    [
        ({"label": torch.tensor([1, 2, 3])}, "classes from 0 to 2, or -1 for no label, got '3"),
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
    with pytest.raises(IndexError):
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
        "likelihood": log_prob(model, some_data(), rtol=0.1, atol=0.1),
        "bound": elbo(model, some_data(), decoder="noised", steps=2),
        "calibration": sampler.calibrate((2,), pilots=12, method="equidistribute"),
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
