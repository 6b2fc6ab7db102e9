"""The bound of a DDPM chain, term by term, beside its continuous limit and the truth.

    python examples/ddpm_chain.py

The data are one 8-bit number, a quantised mixture of two Gaussians, so the ideal denoiser and the
true bits per dimension are known. What the bound adds to the truth is then the chain's own loss:
it falls as 1/N, and an optimal reverse variance makes it smaller. Writes
runs/ddpm_chain/terms.png.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import VPSDE, GaussianMixture, Quantisation, plot
from scoresde.ddpm import DDPM
from scoresde.likelihood.bound import elbo
from scoresde.plot.style import INK, PALETTE, blank, plain_ticks

QUANTISATION, SDE = Quantisation(256), VPSDE()
T_END = 5e-6  # a noise of a tenth of a bin: x_1 tells the level
DRAWS = 8
ENTROPY = 5.2393


def quantised() -> tuple[Tensor, Tensor]:
    """The levels that occur, in model units, and their exact probabilities."""
    level = QUANTISATION.encode(torch.arange(256), dtype=torch.float64)
    half, p = QUANTISATION.bin_width / 2, torch.zeros(256, dtype=torch.float64)
    for weight, mean, std in ((0.6, -0.1, 0.03), (0.4, 0.12, 0.05)):
        upper, lower = ((level + s * half - mean) / std / math.sqrt(2) for s in (1, -1))
        p += weight * (torch.erf(upper) - torch.erf(lower)) / 2
    keep = p > 1e-5
    return level[keep], p[keep] / p[keep].sum()


def run(
    out: Path, lengths: Sequence[int] = (50, 100, 200, 400), repeats: int = 48
) -> dict[str, Any]:
    level, p = quantised()
    model = GaussianMixture(level[:, None], torch.zeros(len(level)), p).under(SDE)
    truth = -float((p * p.log2()).sum())
    x = level.repeat_interleave(repeats)[:, None]
    share = p.repeat_interleave(repeats) / repeats  # so the mean over data is exact

    def bits(nats: Tensor) -> float:
        return float(nats @ share) / math.log(2)

    print(f"true bits/dim {truth:.4f}")
    print("     N  reverse variance     prior     steps   decoder     bound  above the truth")
    chains: dict[int, dict[str, float]] = {}
    optimal, curves = {}, {}
    for n in lengths:
        chain = DDPM.from_sde(SDE, n, grid="log_snr", t_end=T_END)
        data = x[torch.multinomial(share, 4000, True, generator=torch.Generator().manual_seed(0))]
        best = chain.with_variance(chain.analytic_variance(model, data, quantisation=QUANTISATION))
        for name, one in (("small", chain), ("optimal", best)):
            found = one.bound_terms(model, x, quantisation=QUANTISATION)
            terms = {
                "prior": bits(found.prior),
                "steps": bits(found.steps.sum(0)),
                "reconstruction": bits(found.reconstruction),
            }
            terms["total"] = sum(terms.values())
            row = "  ".join(f"{v:8.3f}" for v in terms.values())
            print(f"{n:>6}  {name:<16}  {row}  {terms['total'] - truth:+.3f}")
            if name == "small":
                chains[n] = terms
                curves[n] = (chain.log_snr[2:], (found.steps @ share / math.log(2)).tolist())
            else:
                optimal[n] = terms
    limit = elbo(model, x, quantisation=QUANTISATION, t_end=T_END, samples=DRAWS)
    means = (limit.draws @ share) / math.log(2)
    continuous = float(means.mean()), float(means.std()) / math.sqrt(DRAWS)
    print(f"continuous time, {limit.nfe} calls: {continuous[0]:.3f} +- {continuous[1]:.3f}")
    numbers = {"truth": truth, "chains": chains, "optimal": optimal, "continuous": continuous}
    draw(numbers, curves, out / "terms.png")
    return numbers


def draw(numbers: dict[str, Any], curves: dict[int, Any], path: Path) -> None:
    """The terms step by step, and the totals against the length of the chain."""
    with blank(8.6, 3.5) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
        for (n, (log_snr, terms)), color in zip(curves.items(), PALETTE, strict=False):
            left.plot(log_snr, terms, color=color, label=f"N = {n}")
        low, high = min(map(min, (t for _, t in curves.values()))), max(curves[min(curves)][1])
        left.set_yscale("log")
        left.set_ylim(max(low / 2, high * 1e-4), high * 2)
        left.set(xlabel=r"log-SNR  $\log(\alpha/\sigma)$ of step $i$", ylabel="bits/dim")
        left.set_title(r"$L_{i-1}$, each step of the bound")
        left.legend(loc="upper left")
        sizes = list(numbers["chains"])
        for name, key, color in (
            (r"small, $\tilde\beta_i$", "chains", PALETTE[0]),
            ("optimal", "optimal", PALETTE[1]),
        ):
            totals = [numbers[key][n]["total"] for n in sizes]
            right.plot(sizes, totals, "o-", color=color, markersize=4, label=name)
        right.axhline(numbers["truth"], color=INK, linewidth=1, linestyle="--", label="truth")
        value, error = numbers["continuous"]
        right.errorbar(
            [sizes[-1] * 1.6], [value], yerr=[2 * error], fmt="s", color=PALETTE[2],
            markersize=4, label="continuous time",
        )  # fmt: skip
        right.set_xscale("log")
        plain_ticks(right.xaxis)
        right.set(xlabel="steps N", ylabel="bits/dim", title="The whole bound")
        right.legend()
        plot.save(figure, path)
    print(f"wrote {path.resolve()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/ddpm_chain"))
    run(parser.parse_args().out)


if __name__ == "__main__":
    main()
