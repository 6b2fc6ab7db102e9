"""Densities without samples: the Fokker-Planck equation in one dimension, with paths over it.

    python examples/fokker_planck_1d.py

A mixture dissolves under the VP SDE and is brought back from noise by its score, right and wrong;
a particle in a double well forgets where it started. Every number stands beside a closed form.
Writes two pictures and an animation to runs/fokker_planck_1d.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from scoresde import (
    SDE,
    VPSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    ReverseSDE,
    plot,
    simulate,
)
from scoresde.fokker_planck import Density, FokkerPlanck

DOUBLE = torch.float64
VP, END = VPSDE(), 0.01
DATA = GaussianMixture(
    torch.tensor([[-1.4], [0.3], [1.6]], dtype=DOUBLE),
    torch.tensor([0.03, 0.02, 0.05], dtype=DOUBLE),
    torch.tensor([0.45, 0.2, 0.35], dtype=DOUBLE),
)
NOISE, LONG = 0.65, 120.0
WELL = SDE(lambda t, x: 4 * x - 4 * x**3, lambda t: NOISE, T=1000.0)  # U = (x^2 - 1)^2
LEFT = Gaussian(torch.tensor([-1.0], dtype=DOUBLE), torch.tensor(0.04, dtype=DOUBLE))


def distance(density: Density, exact: Tensor) -> float:
    """The mass in which a density differs from its exact values at the centres of the cells."""
    return float((density.p - exact).abs() @ torch.as_tensor(density.box.volume))


def exact(density: Density) -> Tensor:
    return DATA.marginal(VP, density.t).log_prob(density.box.points()).exp()


def times(end: float) -> list[float]:
    return [1e-4, *(k / 200 * end for k in range(1, 201))]


def noised(cells: int = 400) -> tuple[tuple[Density, ...], dict[float, float]]:
    """The mixture under the VP SDE, from t = 0 to 1: densities, and errors at three times."""
    equation = FokkerPlanck(VP, [(-5.0, 5.0, cells)])
    path = equation.evolve(DATA, 0.0, 1.0, at=times(1.0)).path
    return path, {d.t: distance(d, exact(d)) for d in path if d.t in (0.1, 0.5, 1.0)}


def generated(eta: float, cells: int = 400, wrong: float = 1.0) -> float:
    """How far from the data a model with `wrong` times the exact score generates."""
    oracle = DATA.under(VP)

    def score(t: Tensor, x: Tensor) -> Tensor:
        return wrong * oracle.score(float(t), x)

    process = ReverseSDE(VP, FunctionScore(VP, score), eta)
    equation = FokkerPlanck(process, [(-5.0, 5.0, cells)])
    end = equation.evolve(DATA.marginal(VP, 1.0), 1.0, END, tol=1e-3)
    return distance(end, exact(end))


def resolve(cells: int = 240) -> tuple[tuple[Density, ...], float, float, float]:
    """The double well from its left side: densities, the error at rest, the rate of relaxation
    and Kramers' formula for it, which holds as the noise vanishes."""
    equation = FokkerPlanck(WELL, [(-2.2, 2.2, cells)])
    path = equation.evolve(LEFT, 0.0, LONG, at=times(LONG)).path
    rest = equation.evolve(path[-1], LONG, 1000.0)
    half = path[100]
    rate = math.log(float(half.mean / path[-1].mean)) / (path[-1].t - half.t)
    kramers = math.sqrt(8 * 4) / math.pi * math.exp(-2 / NOISE**2)  # from U'' = 8 and -4
    return path, distance(rest, at_rest(rest)), rate, kramers


def at_rest(density: Density) -> Tensor:
    """exp(-2 U / g^2), normalised."""
    p = (-2 * (density.box.points()[:, 0] ** 2 - 1) ** 2 / NOISE**2).exp()
    return p / (p @ torch.as_tensor(density.box.volume))


def picture(densities, walks, at, limit: float, title: str, truth: Tensor | None = None):
    """A heat map with paths over it, and the last density, beside its closed form if known."""
    return plot.density_evolution(
        [d.t for d in densities],
        densities[0].edges[0],
        torch.stack([d.p for d in densities]),
        paths=walks,
        path_times=at,
        exact=truth,
        limits=(-limit, limit),
        title=title,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/fokker_planck_1d"))
    out = parser.parse_args().out
    (forward, errors), (well, error, rate, kramers) = noised(), resolve()
    print("VP SDE: mass in which the density differs from the closed form")
    for t, gap in errors.items():
        print(f"  t = {t:<4g} {gap:.1e}")
    print(f"generated from noise, at t = {END:g}: the same, by the score and by 1.05 times it")
    for eta, name in ((1.0, "reverse SDE"), (0.0, "probability flow")):
        print(f"  {name:<17} {generated(eta):.1e}  {generated(eta, wrong=1.05):.1e}")
    print(f"double well: {error:.1e} from exp(-2 U / g^2) at rest; rate of relaxation")
    print(f"  {rate:.4f}, by Kramers' formula {kramers:.4f}")

    grid = [VP.t_min, *(k / 800 for k in range(1, 801))]
    walks = simulate(VP, DATA.sample(7, seed=5), grid, seed=0, keep_path=True).path[..., 0]
    long = [k * LONG / 12000 for k in range(12001)]
    hops = simulate(WELL, LEFT.sample(2, seed=0), long, seed=2, keep_path=True).path[::20, :, 0]
    mixture = picture(forward, walks, grid, 3.2, "A mixture under VP", exact(forward[-1]))
    rest = picture(well, hops, long[::20], 2.0, "A double well, not yet at rest")
    plot.save(mixture, out / "mixture.png", dpi=200)
    plot.save(rest, out / "well.png", dpi=200)
    cells, p = well[0].edges[0], torch.stack([d.p for d in well])
    plot.animate(out / "well.gif", [d.t for d in well], density=p, cells=cells)
    print(f"wrote mixture.png, well.png and well.gif to {out.resolve()}")


if __name__ == "__main__":
    main()
