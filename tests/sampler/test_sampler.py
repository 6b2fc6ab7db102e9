"""`ReverseSampler`: seeds, arguments, hooks, choices, and what it calls."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from scoresde import (
    SDE,
    VESDE,
    VPSDE,
    Adams,
    AdaptiveODE,
    AffineSDE,
    CosineSDE,
    EulerMaruyama,
    FlowSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Grid,
    Heun,
    Preconditioned,
    ReverseSampler,
    SubVPSDE,
    simulate,
)
from scoresde.nets import MLP
from scoresde.node import Node
from scoresde.noise import Independent, Noise
from scoresde.sampler.plan import as_solver
from scoresde.schedule.grid import GRIDS
from scoresde.solvers import SOLVERS
from scoresde.solvers.choice import AUTO

VP = VPSDE()
TWO = GaussianMixture(
    torch.tensor([[1.0, -1.0], [-1.0, 0.5]]).double(), torch.tensor([0.1, 0.2]).double()
)

F64 = torch.float64


def score(t: Tensor, x: Tensor) -> Tensor:
    return -x


def network(seed: int = 0, dim: int = 2) -> Preconditioned:
    """A small network that is not linear."""
    torch.manual_seed(seed)
    net = MLP(dim, width=16, depth=1)
    nn.init.normal_(net.exit.weight, std=0.2)
    return Preconditioned(net, VP, null={})


class Counted(nn.Module):
    """0.3 x, counting calls and the largest batch."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.3, dtype=dtype))
        self.calls, self.largest, self.interrupt = 0, 0, -1

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        self.largest = max(self.largest, len(x))
        if self.calls == self.interrupt:
            raise KeyboardInterrupt
        return self.weight.to(x.dtype) * x


class Recorded(Noise):
    """Independent noise that writes down what each sample gets."""

    def __init__(self, source: Independent, book: Any = None) -> None:
        self.source, self.seed, self.first = source, source.seed, source.first
        self.segment = source.segment
        self.book = {} if book is None else book

    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        return self.written(self.source.normal(like, now, nxt), now.t, nxt.t)

    def draw(self, like: Tensor, *number: int, at: float = 0.0) -> Tensor:
        return self.written(self.source.draw(like, *number, at=at), at, *number)

    def written(self, z: Tensor, *key: float) -> Tensor:
        for row, value in enumerate(z):
            whole = self.first + row, self.source.name, self.segment, *key
            self.book[whole] = value.tolist()
        return z

    def stream(self, name: str) -> Recorded:
        return Recorded(self.source.stream(name), self.book)

    def on_segment(self, segment: int) -> Recorded:
        return Recorded(self.source.on_segment(segment), self.book)

    def from_sample(self, first: int) -> Recorded:
        return Recorded(self.source.from_sample(first), self.book)


# Seeds


@given(
    seed=st.integers(0, 2**63 - 1),
    first=st.sampled_from([0, 1, 340, 341, 342, 5000]),
    n=st.integers(1, 9),
    batch=st.integers(1, 9),
    cut=st.integers(0, 8),
)
def test_noise_of_a_sample_does_not_depend_on_batch_or_split(
    seed: int, first: int, n: int, batch: int, cut: int
) -> None:
    """Bitwise, and so samples agree to rounding; a block of noise has 341 rows of size 3."""
    sampler = ReverseSampler(VP, network(dim=3).double(), "predictor_corrector", steps=2)
    whole, parts = (Recorded(Independent(seed)) for _ in range(2))
    expected = sampler.sample((n, 3), noise=whole, first=first)
    cut = min(cut, n - 1)
    pieces = [(first, cut), (first + cut, n - cut)]
    made = [
        sampler.sample((size, 3), noise=parts, first=start, batch_size=batch)
        for start, size in pieces
        if size
    ]
    assert whole.book == parts.book
    assert {key[1] for key in whole.book} == {"prior", "steps", "langevin"}
    assert {key[0] for key in whole.book} == set(range(first, first + n))
    torch.testing.assert_close(torch.cat(made), expected, rtol=1e-11, atol=1e-11)


def test_samples_of_one_request_differ_and_so_do_seeds() -> None:
    sampler = ReverseSampler(VP, score, steps=5)
    a, b = sampler.sample((700, 2), seed=0), sampler.sample((700, 2), seed=1)
    both = torch.cat([a, b])
    assert len(both.unique(dim=0)) == 1400


def test_seed_none_draws_from_the_global_generator_and_is_recorded() -> None:
    sampler = ReverseSampler(VP, score, "ancestral", steps=3)
    torch.manual_seed(5)
    first, second = sampler.solve((4, 2)), sampler.solve((4, 2))
    assert first.seed != second.seed and not torch.equal(first.x, second.x)
    torch.manual_seed(5)
    assert torch.equal(sampler.sample((4, 2)), first.x)
    assert torch.equal(sampler.sample((4, 2), seed=second.seed), second.x)
    forward = simulate(VP, torch.ones(3, 2), steps=3)
    assert torch.equal(simulate(VP, torch.ones(3, 2), steps=3, seed=forward.seed).x, forward.x)


def test_a_seed_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    for name in SOLVERS:
        ReverseSampler(VP, score, name, steps=4).sample((3, 2), seed=1)
    simulate(VP, torch.ones(3, 2), steps=3, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_noise_source_in_place_of_a_seed() -> None:
    sampler = ReverseSampler(VP, score, steps=5)
    solution = sampler.solve((4, 2), noise=Independent(9))
    assert solution.seed == 9 and torch.equal(solution.x, sampler.sample((4, 2), seed=9))


# What a call is given


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_conditions_are_sliced_with_the_batch(batch_size: int) -> None:
    """A Gaussian around shift, one per sample: each sample must end at its own."""
    shift = torch.arange(7.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, -10.0])

    def towards(t: Tensor, x: Tensor, shift: Tensor) -> Tensor:
        assert shift.shape == x.shape
        return (VP.alpha(t) * shift - x) / VP.sigma(t) ** 2

    sampler = ReverseSampler(VP, towards, "ddim", steps=4)
    x = sampler.sample(
        (7, 2), seed=0, cond={"shift": shift}, batch_size=batch_size, dtype=torch.float64
    )
    torch.testing.assert_close(x, shift.double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_x_init_and_t_start(name: str) -> None:
    sampler = ReverseSampler(VP, TWO.under(VP), name, steps=4, denoise=False)
    x = torch.randn(5, 2, dtype=torch.float64)
    before = x.clone()
    solution = sampler.solve((5, 2), seed=0, x_init=x, t_start=0.4, keep_path=True)
    assert (solution.grid.start, solution.grid.end) == (0.4, VP.t_end)
    assert solution.grid == GRIDS["log_snr"](VP, 4, t_start=0.4)
    assert torch.equal(solution.path[0], x) and torch.equal(x, before)
    assert torch.equal(solution.path[-1], solution.x)
    assert solution.x.dtype == torch.float64 and solution.x is not x
    again = sampler.sample((5, 2), seed=0, x_init=x, t_start=0.4, batch_size=2)
    if name != "scipy":  # whose steps depend on the batch
        torch.testing.assert_close(again, solution.x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "per_step"),
    [("euler_maruyama", 1), ("ddim", 1), ("heun", 2), ("predictor_corrector", 2), ("torchsde", 1)],
)
@pytest.mark.parametrize("denoise", [True, False])
def test_nfe_counts_the_final_call(name: str, per_step: int, denoise: bool) -> None:
    net = Counted()
    sampler = ReverseSampler(VP, Preconditioned(net, VP), name, steps=6, denoise=denoise)
    solution = sampler.solve((5, 2), seed=0, batch_size=2)
    assert solution.nfe == 6 * per_step + denoise
    assert net.calls == 3 * solution.nfe  # of three batches


@pytest.mark.parametrize("sde", [VP, VESDE(), SubVPSDE(), FlowSDE(), CosineSDE()], ids=repr)
@pytest.mark.parametrize("t_end", [None, 0.1])
def test_denoising_is_one_tweedie_step_at_the_state_s_own_time(sde: Any, t_end: Any) -> None:
    model = TWO.under(sde)
    arguments: Any = dict(steps=5, t_end=t_end)
    with_it = ReverseSampler(sde, model, "ddim", **arguments)
    without = ReverseSampler(sde, model, "ddim", **arguments, denoise=False)
    x = without.sample((6, 2), seed=0, dtype=torch.float64)
    t = sde.t_end if t_end is None else t_end
    by_hand = (x + sde.sigma(t) ** 2 * model.score(t, x)) / sde.alpha(t)
    denoised = with_it.sample((6, 2), seed=0, dtype=torch.float64)
    torch.testing.assert_close(denoised, by_hand, rtol=1e-9, atol=1e-9)
    assert without.solve((6, 2), seed=0).nfe == 5 and with_it.solve((6, 2), seed=0).nfe == 6


def test_no_denoising_where_no_noise_is_left_or_none_is_known() -> None:
    net = Counted()
    model = Preconditioned(net, VP, "score")
    with pytest.warns(UserWarning, match=r"grid: no noise is left.*'euler'.*first order; end it"):
        sampler = ReverseSampler(VP, model, steps=4, grid="uniform", t_end=0.0)
    assert sampler.solver == EulerMaruyama() and sampler.eta == 0.0
    solution = sampler.solve((3, 2), seed=0, keep_path=True)
    assert solution.nfe == net.calls == 4 and torch.equal(solution.x, solution.path[-1])
    own = SDE(lambda t, x: -x, lambda t: 1.0)
    sampler = ReverseSampler(own, score, steps=4)
    assert not sampler.plan.denoise
    assert sampler.solve((3, 2), seed=0, x_init=torch.ones(3, 2)).nfe == 4


def test_dtype_and_device_come_from_the_model() -> None:
    for own, state in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ):
        sampler = ReverseSampler(VP, Preconditioned(Counted(own), VP), "ddim", steps=2)
        assert sampler.sample((3, 2), seed=0).dtype == state
        assert sampler.sample((3, 2), seed=0, dtype=torch.float64).dtype == torch.float64
        x = torch.ones(3, 2, dtype=torch.float16)
        assert sampler.sample((3, 2), seed=0, x_init=x).dtype == torch.float32
    sampler = ReverseSampler(VP, score, "ddim", steps=2)
    assert sampler.sample((3, 2), seed=0).dtype == torch.get_default_dtype()
    x = torch.ones(3, 2, dtype=torch.float64)
    assert sampler.sample((3, 2), seed=0, x_init=x).dtype == torch.float64
    assert sampler.sample((3, 2), seed=0, x_init=x, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 4), (3, 1, 2, 2)])
def test_any_shape_of_sample_is_the_same_numbers(shape: tuple[int, ...]) -> None:
    sampler = ReverseSampler(VP, score, "predictor_corrector", steps=3)
    flat = sampler.sample((3, 4), seed=0)
    assert torch.equal(sampler.sample(shape, seed=0), flat.reshape(shape))
    assert torch.equal(sampler.sample(torch.Size(shape), seed=0), flat.reshape(shape))
    assert torch.equal(sampler.sample(list(shape), seed=0), flat.reshape(shape))


# Hooks, bar, interruption


def test_hook_runs_once_per_step_of_every_batch() -> None:
    sizes: list[int] = []
    ReverseSampler(VP, score, steps=3).sample(
        (5, 2), seed=0, batch_size=2, on_step=lambda node, x: sizes.append(len(x))
    )
    assert sizes == [2] * 6 + [1] * 3


@pytest.mark.parametrize(
    ("name", "total"), [("euler_maruyama", 24), ("heun", 24), ("scipy", 3), ("torchsde", 3)]
)
def test_progress_bar_ends_full(
    name: str, total: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoresde._progress._watched", lambda: True)
    sampler = ReverseSampler(VP, TWO.under(VP), name, steps=8)
    quiet = sampler.sample((5, 2), seed=0, batch_size=2)
    assert capsys.readouterr().err == ""
    assert torch.equal(sampler.sample((5, 2), seed=0, batch_size=2, progress=True), quiet)
    shown = capsys.readouterr().err
    assert "100%" in shown and f"{total}/{total}" in shown


def test_progress_bar_does_not_hide_the_hook(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoresde._progress._watched", lambda: True)
    sampler = ReverseSampler(VP, score, steps=4, denoise=False)
    zeros = sampler.sample((3, 2), seed=0, on_step=lambda n, x: 0 * x, progress=True)
    assert not zeros.any() and "4/4" in capsys.readouterr().err


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("progress", [False, True])
def test_an_interruption_leaves_no_half_state(name: str, progress: bool) -> None:
    net = Counted()
    model = Preconditioned(net, VP).train()
    sampler = ReverseSampler(VP, model, name, steps=6)
    state, attributes = torch.get_rng_state(), dict(vars(sampler))
    expected = sampler.sample((5, 2), seed=0, batch_size=3)
    net.calls, net.interrupt = 0, 9  # in the second batch, or the middle of the only segment
    with pytest.raises(KeyboardInterrupt):
        sampler.sample((5, 2), seed=0, batch_size=3, progress=progress)
    assert net.calls == 9
    assert vars(sampler) == attributes and torch.equal(torch.get_rng_state(), state)
    assert model.training and net.training and torch.is_grad_enabled()
    assert torch.equal(sampler.sample((5, 2), seed=0, batch_size=3), expected)


def test_the_mode_of_the_model_is_never_touched() -> None:
    class Fixed(Counted):
        def train(self, mode: bool = True) -> Fixed:
            raise AssertionError("somebody toggled the mode")

    net = Fixed()
    sampler = ReverseSampler(VP, Preconditioned(net, VP), "heun", steps=3)
    sampler.sample((3, 2), seed=0)
    assert net.training and sampler.model.training


@pytest.mark.parametrize("name", SOLVERS)
def test_results_have_no_graph_and_can_be_trained_on(name: str) -> None:
    model = network()

    def plain(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()

    model.net.register_forward_pre_hook(plain)
    sampler = ReverseSampler(VP, model, name, steps=4)
    x_init = torch.randn(4, 2, requires_grad=True)
    for given_x in (None, x_init):
        solution = sampler.solve(
            (4, 2), seed=0, x_init=given_x, keep_path=True, differentiable=False
        )
        for x in (solution.x, solution.path):
            assert not x.requires_grad and x.grad_fn is None and not x.is_inference()
    weight = torch.ones(2, requires_grad=True)
    (solution.x * weight).sum().backward()
    assert weight.grad is not None
    assert all(p.grad is None for p in model.parameters()) and x_init.grad is None
    start = torch.ones(4, 2, requires_grad=True)
    out = simulate(VP, start, steps=2, seed=0, keep_path=True)
    assert not out.x.requires_grad and not out.path.requires_grad


# Choices of the constructor


def test_lines_of_the_readme() -> None:
    x = ReverseSampler(VPSDE(), score, steps=50).sample((1000, 2), seed=0)
    assert x.shape == (1000, 2)
    x = ReverseSampler(VPSDE(), lambda t, x: -x, steps=50).sample((1000, 2), seed=0)
    assert abs(float(x.mean())) < 0.1 and abs(float(x.std()) - 1) < 0.05


def test_defaults() -> None:
    auto = ReverseSampler(VP, score)
    assert auto.grid.steps == 50 and auto.eta == 0.0
    assert auto.solve((2, 2), seed=0).nfe == 51
    few = Gaussian(torch.zeros(2), torch.tensor(0.25)).under(VP)  # knows its data, two values
    for process, rows in AUTO.items():
        for (first, name, grid), after in zip(rows, [*rows[1:], (61, "", "")], strict=True):
            for steps in {first, after[0] - 1}:
                model = few if process == "ode" else score
                made = ReverseSampler(
                    VP, model, steps=steps, eta=1.0 if process == "sde" else None
                )
                solution = made.solve((2, 2), seed=0)
                assert made.solver == as_solver(name, VP)[0] == solution.solver
                assert made.eta == (1.0 if process == "sde" else 0.0)
                assert (made.plan.grid_name, made.grid.steps) == (
                    grid,
                    steps,
                ) and solution.nfe == steps + 1
                if process == "sde":
                    made = ReverseSampler(VP, score, "auto_sde", steps=steps)
                    assert (made.solver, made.eta) == as_solver(name, VP)
    for steps in range(1, 200):
        for kind, eta in (("auto", None), ("auto", 0.5), ("auto_sde", None)):
            assert ReverseSampler(VP, score, kind, steps=steps, eta=eta).grid.steps == steps
    own = ReverseSampler(VP, score, grid=[1.0, 0.6, 0.2])
    assert own.solver == Adams(2, variant="midpoint")
    for name in SOLVERS:
        made = ReverseSampler(VP, score, name)
        assert ((made.solver, made.eta), made.grid.steps) == (as_solver(name, VP), 50)
    assert ReverseSampler(VP, score, Heun()).eta == 0.0
    assert ReverseSampler(VP, score, Adams(1)).eta == 1.0
    own = SDE(lambda t, x: -x, lambda t: 1.0)
    plain = ReverseSampler(own, score)
    assert (plain.plan.grid_name, plain.solver, plain.grid.steps) == (
        "uniform",
        EulerMaruyama(),
        500,
    )


@pytest.mark.parametrize("name", GRIDS)
def test_named_grids_grids_and_sequences_are_the_same(name: str) -> None:
    named = ReverseSampler(VP, score, "ancestral", steps=6, grid=name)
    made = GRIDS[name](VP, 6)
    expected = named.sample((3, 2), seed=0)
    for grid in (
        made,
        made.times,
        list(made.times),
        torch.tensor(made.times, dtype=torch.float64),
    ):
        sampler = ReverseSampler(VP, score, "ancestral", grid=grid)
        assert torch.equal(sampler.sample((3, 2), seed=0), expected)
        assert sampler.grid.steps == 6
        same = ReverseSampler(VP, score, "ancestral", grid=grid, steps=6, t_end=made.end)
        assert torch.equal(same.sample((3, 2), seed=0), expected)


def test_a_grid_that_can_be_read_once_is_kept() -> None:
    times = [1.0, 0.5, 0.2]
    sampler = ReverseSampler(VP, score, grid=iter(times))
    assert sampler.solve((2, 2), seed=0).grid == Grid.of(times)
    x = torch.ones(2, 2)
    assert sampler.solve((2, 2), seed=0, x_init=x, t_start=1.0).grid == Grid.of(times)


@pytest.mark.parametrize("name", ["euler_maruyama", "ancestral", "reverse_diffusion", "torchsde"])
def test_eta_as_a_function_of_time(name: str) -> None:
    constant = ReverseSampler(VP, score, name, steps=6, eta=0.7).sample((4, 2), seed=0)
    function = ReverseSampler(VP, score, name, steps=6, eta=lambda t: 0.7)
    assert torch.equal(function.sample((4, 2), seed=0), constant)
    tensor = ReverseSampler(VP, score, name, steps=6, eta=lambda t: 0.7 + 0 * t)
    assert torch.equal(tensor.sample((4, 2), seed=0), constant)


def test_eta_is_asked_at_the_node_that_a_step_leaves() -> None:
    model, grid = TWO.under(VP), (1.0, 0.6, 0.3, 0.1)
    sampler = ReverseSampler(VP, model, EulerMaruyama(), grid=grid, eta=lambda t: 2 * t)
    path = sampler.solve((4, 2), seed=0, dtype=torch.float64, keep_path=True).path
    for i, (t, s) in enumerate(pairwise(grid)):
        x, eta, g = path[i], 2 * t, VP.g(t)
        drift = VP.f(t, x) - (1 + eta**2) / 2 * g**2 * model.score(t, x)
        z = Independent(0).normal(x, VP.at(t), VP.at(s))
        by_hand = x + (s - t) * drift + eta * g * math.sqrt(t - s) * z
        torch.testing.assert_close(path[i + 1], by_hand, rtol=1e-12, atol=1e-12)


def test_eta_interpolates_between_the_names() -> None:
    for name, solver in (("ddim", "ancestral"), ("euler", "euler_maruyama")):
        plain = ReverseSampler(VP, score, name, steps=5).sample((3, 2), seed=0)
        assert torch.equal(
            ReverseSampler(VP, score, solver, steps=5, eta=0.0).sample((3, 2), seed=0), plain
        )


def test_a_model_of_an_equal_sde_is_accepted() -> None:
    model = FunctionScore(VPSDE(0.1, 20.0), score)
    assert ReverseSampler(VPSDE(), model, steps=2).sample((2, 2), seed=0).shape == (2, 2)


# Teleportation


@pytest.mark.parametrize("sde", [VP, VESDE(0.01, 20.0), SubVPSDE(), FlowSDE()], ids=repr)
def test_teleport_is_the_exact_flow_of_the_gaussian(sde: AffineSDE) -> None:
    gaussian = Gaussian(torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 2.0]).double())
    model, half = gaussian.under(sde), 0.5 * sde.T
    sampler = ReverseSampler(sde, model, "unipc_3", steps=400, denoise=False)
    start = sde.sample_prior(Independent(0).prior(torch.empty(4, 2, dtype=F64)))
    exact = gaussian.flow(sde, start, sde.T, sde.t_end)
    skipped = sampler.solve(
        (4, 2), seed=0, dtype=F64, t_start=half, gaussian_start=gaussian, keep_path=True
    )
    assert torch.allclose(skipped.path[0], gaussian.flow(sde, start, sde.T, half))
    assert torch.allclose(skipped.x, exact, rtol=1e-5, atol=1e-5)
    assert skipped.nfe == 400
    parts = sampler.sample(
        (4, 2), seed=0, dtype=F64, t_start=half, gaussian_start=gaussian, batch_size=3
    )
    assert torch.allclose(parts, skipped.x, rtol=1e-12, atol=1e-12)


def test_teleport_saves_calls_on_data_that_are_no_gaussian() -> None:
    """The same number of steps, all below the time at which the mixture begins to show."""
    model = TWO.under(VP)
    moments = Gaussian.fit(TWO.sample(4000, seed=1))
    exact = ReverseSampler(VP, model, "unipc_3", steps=300, denoise=False).sample(
        (4000, 2), seed=0
    )
    errors = {}
    for t_start in (None, 0.7):
        jump = moments if t_start else None
        sampler = ReverseSampler(VP, model, "unipc_3", steps=8, denoise=False)
        x = sampler.sample((4000, 2), seed=0, t_start=t_start, gaussian_start=jump)
        errors[t_start] = float((x - exact).norm(dim=1).median())
    assert errors[0.7] < 0.6 * errors[None], errors


def test_teleport_refuses_what_it_cannot_do() -> None:
    sampler = ReverseSampler(VP, score, "ddim", steps=3)
    gaussian = Gaussian(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="x_init: expected none beside gaussian_start"):
        sampler.sample((2, 2), t_start=0.5, gaussian_start=gaussian, x_init=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="gaussian_start: expected a Gaussian in 3 dimensions"):
        sampler.sample((2, 3), t_start=0.5, gaussian_start=gaussian)
    with pytest.raises(TypeError, match="gaussian_start: expected"):
        sampler.sample((2, 2), t_start=0.5, gaussian_start=TWO)
    own = ReverseSampler(SDE(lambda t, x: -x, lambda t: 1.0), score, "euler", steps=3)
    with pytest.raises(TypeError, match="leave gaussian_start out"):
        own.sample((2, 2), gaussian_start=gaussian)


# Calibration, encoding, stopped samples


def test_a_calibration_is_found_by_a_sampler_and_brings_its_grid() -> None:
    model = TWO.under(VP)
    sampler = ReverseSampler(VP, model, steps=5)
    made = sampler.calibrate((2,), trajectories=16, method="equidistribute", dtype=F64)
    used = ReverseSampler(VP, model, made)
    solution = used.solve((3, 2), seed=0)
    assert (solution.solver, solution.grid) == (made.solver, made.grid)
    assert used.eta == 0.0 and made.grid.steps == 5
    for wrong in ({"grid": "karras"}, {"eta": 1.0}):
        with pytest.raises(ValueError, match="neither, with a calibration"):
            ReverseSampler(VP, model, made, **wrong)
    with pytest.raises(ValueError, match="calibration"):
        ReverseSampler(VP, Gaussian(torch.zeros(2), torch.ones(2)).under(VP), made)


def test_encode_and_decode_of_a_sampler() -> None:
    model = TWO.under(VP)
    sampler = ReverseSampler(VP, model, t_end=0.01)
    x = TWO.marginal(VP, 0.01).sample(5)
    latent = sampler.encode(x, check=True)
    assert torch.allclose(sampler.decode(latent.z), x, atol=1e-3)
    assert float(latent.round_trip.max()) < 1e-4


def test_stopped_samples_are_denoised_at_their_own_time() -> None:
    gaussian = Gaussian(torch.zeros(2).double(), torch.tensor([0.3, 2.0]).double())
    sampler = ReverseSampler(VP, gaussian.under(VP), AdaptiveODE(max_nfe=20))
    solution = sampler.solve((6, 2), seed=0, dtype=F64, batch_size=4)
    assert solution.status == "budget" and solution.stats["nfe"].shape == (6,)
    bare = ReverseSampler(VP, gaussian.under(VP), sampler.solver, denoise=False)
    stopped = bare.solve((6, 2), seed=0, dtype=F64)
    assert float(stopped.stats["t"].min()) > 0.01
    expected = gaussian.under(VP)(stopped.stats["t"], stopped.x).x0
    assert torch.allclose(solution.x, expected, rtol=1e-10, atol=1e-12)


def test_a_dtype_of_numpy_is_refused_by_name() -> None:
    sampler = ReverseSampler(VPSDE(), lambda t, x: -x, steps=2)
    dtype: Any = np.float64
    with pytest.raises(TypeError, match=r"dtype: expected .*numpy.float64.*; pass e.g. torch"):
        sampler.sample((2, 2), seed=0, dtype=dtype)
