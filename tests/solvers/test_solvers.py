"""What every named solver keeps, whatever its scheme: one test for each property, over all names.

A property that a kind of solver does not have is written out beside it.
"""

from __future__ import annotations

import math
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scoresde.solvers
from scoresde import VESDE, VPSDE, GaussianMixture, Grid, Preconditioned, ReverseSampler
from scoresde.noise import Independent
from scoresde.sampler.plan import as_solver
from scoresde.solvers import SOLVERS, Orders, SciPySolver, TorchSDESolver
from scoresde.solvers.adaptive.base import AdaptiveSolver

VP = VPSDE()
D = torch.float64
TWO = GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=D), torch.tensor([0.1, 0.2]))
SEGMENTS = Grid(((1.0, 0.7, 0.5, 0.3, 0.2), (0.4, 0.1)))
OUTSIDE = [name for name, (s, _) in SOLVERS.items() if isinstance(s, SciPySolver | TorchSDESolver)]
ADAPTIVE = [name for name, (s, _) in SOLVERS.items() if isinstance(s, AdaptiveSolver)]
HOOKED = [name for name in SOLVERS if name not in OUTSIDE]

every = pytest.mark.parametrize("name", SOLVERS)


def score(t: Tensor, x: Tensor) -> Tensor:
    return -x


class Net(nn.Module):
    """0.3 x; counts its calls, and answers NaN below a time, for the rows from `row` on."""

    def __init__(self, below: float = -1.0, row: int = 0) -> None:
        super().__init__()
        self.below, self.row, self.calls = below, row, 0
        self.weight = nn.Parameter(torch.full((), 0.3, dtype=D))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        out = self.weight.to(x) * x
        rows = torch.arange(len(x)) >= self.row
        return torch.where(rows[:, None] & (t[:, None] < self.below), math.nan, out)


def sampler(name: str, **options: Any) -> ReverseSampler:
    return ReverseSampler(VP, TWO.under(VP), name, **{"steps": 6, **options})


def test_an_eta_fits_its_solver() -> None:
    for solver, eta in SOLVERS.values():
        assert isinstance(solver.orders, Orders)
        assert eta == 0.0 or solver.serves != "ode"


@every
def test_its_repr_makes_it_again_and_so_does_a_pickle(name: str) -> None:
    solver = SOLVERS[name][0]
    again = eval(repr(solver), vars(scoresde.solvers))
    sent = pickle.loads(pickle.dumps(solver))
    assert again == solver == sent
    assert hash(again) == hash(solver) == hash(sent)
    assert all(other == solver for other in (SOLVERS[name][0], again))


@every
def test_it_keeps_the_precision_and_follows_the_same_noise(name: str) -> None:
    wide = sampler(name, steps=8).sample((6, 2), seed=0, dtype=D)
    narrow = sampler(name, steps=8).sample((6, 2), seed=0, dtype=torch.float32)
    assert (wide.dtype, narrow.dtype) == (D, torch.float32)
    assert float((wide - narrow).abs().max()) < (1e-3 if name == "scipy" else 1e-4)


@every
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    """Nor on where a request is cut. scipy chooses one step for a whole batch."""
    whole = sampler(name).sample((7, 2), seed=3, dtype=D)
    parts = sampler(name).sample((7, 2), seed=3, dtype=D, batch_size=3)
    last = sampler(name).sample((2, 2), seed=3, dtype=D, first=5)
    close = {"rtol": 1e-3, "atol": 1e-3} if name == "scipy" else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(parts, whole, **close)
    torch.testing.assert_close(last, whole[5:], **close)


@every
def test_the_seed_is_the_sample(name: str) -> None:
    """Twice the same seed, twice the same bits; another seed, another sample."""
    runs = [sampler(name).sample((3, 2), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.isclose(runs[0], runs[2]).any()


@every
def test_nfe_is_what_the_network_counts(name: str) -> None:
    net = Net()
    solution = ReverseSampler(VP, Preconditioned(net, VP), name, steps=7).solve((3, 2), seed=0)
    assert solution.nfe == net.calls


@every
@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_path_has_every_node_and_the_first_and_last_states(name: str, batch_size: Any) -> None:
    """One state a node, from the prior to what the final denoising starts from."""
    made = sampler(name)
    solution = made.solve((5, 2), seed=3, dtype=D, keep_path=True, batch_size=batch_size)
    path = solution.path
    assert path is not None
    assert path.shape == (7, 5, 2)
    prior = Independent(3).prior(solution.x) * VP.sigma(1.0)
    torch.testing.assert_close(path[0], prior, rtol=1e-14, atol=0)
    denoised = TWO.under(VP).predict(VP.at(VP.t_end), path[-1]).x0
    torch.testing.assert_close(solution.x, denoised, rtol=1e-12, atol=1e-12)
    assert made.solve((5, 2), seed=3).path is None


@every
def test_the_path_has_every_node_of_every_segment(name: str) -> None:
    solution = sampler(name, grid=SEGMENTS, steps=None, denoise=False).solve(
        (3, 2), seed=0, dtype=D, keep_path=True
    )
    assert solution.path is not None
    assert solution.path.shape == (6, 3, 2)
    assert torch.equal(solution.path[-1], solution.x)


@pytest.mark.parametrize("name", HOOKED)
def test_a_hook_sees_every_node_and_its_state(name: str) -> None:
    seen: list[tuple[float, Tensor]] = []
    made = ReverseSampler(VP, score, name, grid=SEGMENTS)
    solution = made.solve(
        (3, 2), seed=0, on_step=lambda node, x: seen.append((node.t, x)), keep_path=True, dtype=D
    )
    assert [t for t, _ in seen] == [0.7, 0.5, 0.3, 0.2, 0.1]
    assert solution.path is not None
    states = torch.stack([x for _, x in seen])
    if name in ADAPTIVE:  # these stop at each node for a hook alone, in a variable of their own
        torch.testing.assert_close(states, solution.path[1:], rtol=1e-12, atol=1e-12)
    else:
        assert torch.equal(states, solution.path[1:])
        assert torch.equal(solution.x, made.sample((3, 2), seed=0, dtype=D))


@pytest.mark.parametrize("name", HOOKED)
def test_a_hook_replaces_the_state(name: str) -> None:
    """Held on a plane by the hook, the state is there at the end, and the rest follows from it."""

    def hold(node: Any, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], torch.full_like(x[:, 0], node.t)], 1)

    made = sampler(name, steps=5, denoise=False)
    solution = made.solve((3, 2), seed=0, on_step=hold, keep_path=True, dtype=D)
    times = torch.tensor(solution.grid.times[1:], dtype=D)[:, None].expand(5, 3)
    assert solution.path is not None
    tiny = {"rtol": 1e-12, "atol": 1e-12} if name in ADAPTIVE else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(solution.path[1:, :, 1], times, **tiny)
    free = made.solve((3, 2), seed=0, on_step=lambda node, x: None, keep_path=True, dtype=D)
    assert free.path is not None
    torch.testing.assert_close(free.path[1, :, 0], solution.path[1, :, 0], **tiny)
    assert not torch.allclose(free.path[2, :, 0], solution.path[2, :, 0])


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_solver_of_another_library_refuses_a_hook(name: str) -> None:
    with pytest.raises(ValueError, match=r"on_step: .* use a native solver"):
        sampler(name).sample((3, 2), seed=0, on_step=lambda node, x: x)


@every
def test_nan_is_an_error_that_names_the_time_and_never_a_sample(name: str) -> None:
    """The scores are not finite below t = 0.5, for two of five samples."""
    net = Net(below=0.5, row=3)
    made = ReverseSampler(VP, Preconditioned(net, VP), name, steps=6, grid="uniform")
    with pytest.raises(ValueError, match=r"model: expected finite scores") as caught:
        made.sample((5, 2), seed=0)
    (at,) = re.findall(r"(?:t = |past t = )([\d.e-]+)", str(caught.value))[:1]
    assert 0.3 < float(at) < 0.7


@every
def test_one_object_serves_many_samplers(name: str) -> None:
    """Runs of two samplers, one inside the other, with one solver object: as if alone."""
    solver, eta = as_solver(name, VP)
    inner = ReverseSampler(VP, score, solver, steps=4, eta=eta)
    alone = inner.sample((3, 2), seed=0)
    seen: list[Tensor] = []

    def nested(t: Tensor, x: Tensor) -> Tensor:
        if len(seen) < 3:
            seen.append(inner.sample((3, 2), seed=0))
        return -x

    sde = VESDE(0.1, 2.0)
    eta = as_solver(name, sde)[1]
    outer = ReverseSampler(sde, nested, solver, steps=5, eta=eta)
    plain = ReverseSampler(sde, score, solver, steps=5, eta=eta)
    assert torch.equal(outer.sample((2, 3), seed=1), plain.sample((2, 3), seed=1))
    assert all(torch.equal(x, alone) for x in seen)
