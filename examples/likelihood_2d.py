"""The likelihood of a model whose density is known, with its error budget.

    python examples/likelihood_2d.py

Eight Gaussians on a ring under the VP SDE: the exact score, so the true log-density is known at
every point. Prints the error of each way to the trace, where the error comes from, and the
bits/dim of quantised points; writes runs/likelihood_2d/likelihood.png.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from scoresde import VPSDE, GaussianMixture, Quantisation, elbo, plot
from scoresde.likelihood import LogLikelihood, discrete_log_prob, log_prob
from scoresde.options import Divergence, Tolerances
from scoresde.plot.style import INK, PALETTE, blank

T_END = 1e-3


def ring() -> GaussianMixture:
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = torch.stack([angle.cos(), angle.sin()], 1)
    return GaussianMixture(means, torch.full((8,), 0.15**2, dtype=torch.float64))


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def ways(data: GaussianMixture, x: Tensor) -> dict[str, LogLikelihood]:
    sde = VPSDE()
    options = {
        "exact trace": {"divergence": "exact"},
        "exact trace, 1e-7": {"divergence": "exact", "tolerances": Tolerances(1e-7, 1e-7)},
        "1 probe": {},
        "8 probes": {"divergence": Divergence(probes=8)},
    }
    prior = data.marginal(sde, sde.T)
    model = data.under(sde)
    return {k: log_prob(model, x, prior=prior, t_end=T_END, **v) for k, v in options.items()}


def figure(data: GaussianMixture, results: dict[str, LogLikelihood], path: Path) -> None:
    sde, truth = VPSDE(), data.marginal(VPSDE(), T_END)
    side = torch.linspace(-1.7, 1.7, 61, dtype=torch.float64)
    points = torch.cartesian_prod(side, side)
    model, prior = data.under(sde), data.marginal(sde, sde.T)
    flow = log_prob(model, points, prior=prior, divergence="exact", t_end=T_END)
    grid = flow.nats.exp().reshape(61, 61).T
    exact = truth.log_prob(points).exp().reshape(61, 61).T
    with blank(9.6, 4.4) as fig:
        left, right = fig.subplots(1, 2)
        shades = left.contourf(side, side, grid, levels=12, cmap="Blues")
        fig.colorbar(shades, ax=left, label="density by the flow")
        left.contour(side, side, exact, levels=shades.levels[1:], colors=INK, linewidths=0.4)
        left.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
        left.set_title("filled: by the flow; lines: exact")

        x = data.sample(400, seed=0)
        for color, (name, result) in zip(PALETTE, results.items(), strict=False):
            error = (result.nats - truth.log_prob(x)).abs().clamp_min(1e-12).sort().values
            share = (torch.arange(len(error)) + 0.5) / len(error)
            calls = float(result.nfe.double().mean())
            right.plot(error, share, color=color, label=f"{name}, {calls:.0f} calls")
        right.set(xscale="log", xlim=(1e-9, 10), ylim=(0, 1), title="errors at 400 points")
        right.set(xlabel="error of log p, nats", ylabel="share of the points")
        fig.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2)
        plot.save(fig, path)


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/likelihood_2d"))
    out = parser.parse_args(argv).out
    sde, data = VPSDE(), ring()
    x = data.sample(400, seed=0)
    truth = data.marginal(sde, T_END).log_prob(x)
    results, numbers = ways(data, x), {}
    print(f"log p at t = {T_END:g}, exact mean {float(truth.mean()):.4f} nats; errors in nats")
    print(f"  {'way':<20}{'RMS error':>10}{'stated s.e.':>13}{'solver':>10}{'calls':>7}")
    for name, result in results.items():
        error, budget = rms(result.nats - truth), result.budget()
        stated, solver = budget["standard_error"], budget["solver_error"]
        calls = float(result.nfe.double().mean())
        print(f"  {name:<20}{error:>10.1e}{stated:>13.1e}{solver:>10.0e}{calls:>7.0f}")
        numbers[name] = error

    plain = log_prob(data.under(sde), x, divergence="exact", t_end=T_END)
    numbers["prior"] = float((results["exact trace"].nats - plain.nats).mean())
    numbers["truncation"] = float((truth - data.log_prob(x)).mean())
    print(f"N(0, 1) for the true prior costs {numbers['prior']:+.0e} nats, on average")
    print(
        f"stopping at t = {T_END:g} gives {numbers['truncation']:+.5f},"
        f" estimated {plain.budget()['truncation']:+.5f}"
    )
    mean, error = elbo(data.under(sde), x, decoder="noised", t_end=T_END).estimate()
    numbers["elbo"], numbers["flow"] = mean, -float(plain.nats.mean())
    print(f"-log p by the flow {numbers['flow']:.3f}, by the bound {mean:.3f} +- {error:.3f}")

    quantisation = Quantisation(64, -2.0, 2.0)
    levels = quantisation.encode(quantisation.decode(x), dtype=torch.float64)
    bits = discrete_log_prob(data.under(sde), levels, quantisation, divergence="exact")
    numbers["bits"], error = bits.estimate()
    print(f"on {quantisation.levels} levels: {numbers['bits']:.4f} +- {error:.4f} bits/dim")
    figure(data, results, out / "likelihood.png")
    print(f"wrote likelihood.png to {out.resolve()}")
    return numbers


if __name__ == "__main__":
    main()
