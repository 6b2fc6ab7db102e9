"""No training: an exact mixture, noised and brought back, beside the closed form.

    python examples/oracle_2d.py

The score of a Gaussian mixture is known at every time, so whatever differs from the truth here is
the solver's doing. Writes runs/oracle_2d/forward.png, reverse.png and paths.png.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from scoresde import VPSDE, GaussianMixture, ReverseSampler, plot, simulate

TIMES = (0.001, 0.1, 0.25, 0.5, 1.0)
N = 4000


def mixture() -> GaussianMixture:
    means = torch.tensor([[1.0, 0.6], [-0.8, 1.0], [0.1, -1.1]])
    tilted = torch.tensor([[0.09, 0.06], [0.06, 0.07]])
    flat = torch.diag(torch.tensor([0.25, 0.01]))
    covariances = torch.stack([tilted, 0.04 * torch.eye(2), flat])
    return GaussianMixture(means, covariances, torch.tensor([0.5, 0.3, 0.2]))


def moments(x: Tensor) -> Tensor:
    """Mean and covariance as five numbers."""
    c = x.T.cov()
    return torch.stack([*x.mean(0), c[0, 0], c[1, 1], c[0, 1]])


def exact_moments(p: GaussianMixture) -> Tensor:
    mean = p.weights @ p.means
    off = p.means - mean
    c = torch.einsum("k,kij->ij", p.weights.double(), p.full_covariances())
    c = c + torch.einsum("k,ki,kj->ij", *(v.double() for v in (p.weights, off, off)))
    return torch.stack([*mean.double(), c[0, 0], c[1, 1], c[0, 1]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/oracle_2d"))
    out = parser.parse_args().out
    sde, data = VPSDE(), mixture()
    x0 = data.sample(N, seed=0)

    # Forward: the SDE, stopped at a few times, beside exact samples of p_t.
    times = (sde.t_min, *TIMES)
    grid = [t + i * (u - t) / 200 for t, u in pairwise(times) for i in range(200)]
    forward = simulate(sde, x0, [*grid, 1.0], seed=0, keep_path=True).path
    panels = {}
    print("forward SDE: largest error of a moment (statistical error about 0.03)")
    for i, t in enumerate(TIMES):
        exact = data.marginal(sde, t)
        states = forward[200 * (i + 1)]
        error = (moments(states) - exact_moments(exact)).abs().max()
        print(f"  t = {t:<6g} {error:.3f}")
        panels[f"simulated, t = {t:g}"] = states
    for t in TIMES:
        panels[f"exact, t = {t:g}"] = data.marginal(sde, t).sample(N, seed=1)
    plot.save(plot.scatter(panels, columns=len(TIMES)), out / "forward.png")

    # Reverse: from noise with several solvers, beside the data.
    panels = {"data": x0}
    print("reverse: largest error of a moment, and mean log density against the data's")
    truth, level = exact_moments(data), data.log_prob(x0).mean()
    for name, steps in (("euler_maruyama", 500), ("ancestral", 200), ("ddim", 50), ("heun", 25)):
        sampler = ReverseSampler(sde, data.under(sde), name, steps=steps)
        solution = sampler.solve((N, 2), seed=0)
        error = (moments(solution.x) - truth).abs().max()
        gap = data.log_prob(solution.x).mean() - level
        print(f"  {name:<15} {solution.nfe:>4} calls  {error:.3f}  {gap:+.3f}")
        panels[f"{name}, {solution.nfe} calls"] = solution.x
    plot.save(plot.scatter(panels, columns=5), out / "reverse.png")

    path = ReverseSampler(sde, data.under(sde), "heun", steps=60).solve(
        (60, 2), seed=0, keep_path=True
    )
    plot.save(plot.paths_2d(path.path, background=x0), out / "paths.png")
    print(f"wrote forward.png, reverse.png, paths.png to {out.resolve()}")


if __name__ == "__main__":
    main()
