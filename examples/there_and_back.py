"""Data become noise along the SDE, and noise becomes data along the probability flow.

    python examples/there_and_back.py

No training: the density and the score of a mixture are exact at every time. The colours are that
density; the paths on the left are the forward SDE, and those on the right the probability flow,
started from new noise. The histogram has 20,000 samples of ten network calls each, beside the
exact density as a line. Writes runs/there_and_back/there_and_back.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from scoresde import VPSDE, GaussianMixture, ReverseSampler, simulate
from scoresde.metrics import sliced_wasserstein

SDE, END = VPSDE(), 1e-3
DATA = GaussianMixture(
    torch.tensor([[-1.9], [-0.85], [0.35], [1.75]], dtype=torch.float64),
    torch.tensor([0.012, 0.006, 0.02, 0.01], dtype=torch.float64),
    torch.tensor([0.3, 0.15, 0.3, 0.25], dtype=torch.float64),
)
HIGHEST = 3.2  # of |x| in the picture
SKY, PATH, EXACT = "#0B0F1A", "#FFFFFF", "#7FDBFF"


def times(n: int) -> Tensor:
    """From nearly 0 to T, denser towards the data, where the density changes fastest."""
    return (torch.linspace(END**0.5, 1.0, n, dtype=torch.float64) ** 2).clamp(END, SDE.T)


def density(at: Tensor, x: Tensor) -> Tensor:
    """The exact density, a row for each x and a column for each time."""
    return torch.stack([DATA.marginal(SDE, float(t)).log_prob(x).exp() for t in at], dim=1)


def draw(forward: Tensor, back: Tensor, at: Tensor, samples: Tensor, path: Path) -> None:
    """Four panels: the data, there, back, and the samples."""
    import matplotlib
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    look = {"font.size": 11.0, "text.color": "#E8ECF4", "axes.titlecolor": "#E8ECF4"}
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(13.0, 4.3), layout="constrained", facecolor=SKY)
        panels = figure.subplots(1, 4, width_ratios=(0.7, 4, 4, 0.7), sharey=True)
        height = torch.linspace(-HIGHEST, HIGHEST, 700, dtype=torch.float64)
        clock = times(400).sqrt()
        shade = density(clock**2, height[:, None])
        colours = {"cmap": "magma", "norm": PowerNorm(0.55, vmin=0, vmax=1.1)}
        for axes, states, sign in ((panels[1], forward, 1), (panels[2], back, -1)):
            axes.pcolormesh(
                sign * clock, height, shade, shading="gouraud", rasterized=True, **colours
            )
            axes.plot(sign * at.sqrt(), states, color=PATH, linewidth=0.7, alpha=0.55)
            axes.margins(0)
        panels[1].set_title("data to noise: the SDE")
        panels[2].set_title("noise to data: the probability flow")
        exact = density(torch.tensor([END]), height[:, None])[:, 0]
        panels[0].fill_betweenx(height, exact, color="#B5367A", linewidth=0)
        panels[0].invert_xaxis()
        panels[0].set_title("data")
        bins = torch.linspace(-HIGHEST, HIGHEST, 161).tolist()
        panels[3].hist(
            samples.flatten().tolist(), bins, density=True, orientation="horizontal",
            color="#B5367A",
        )  # fmt: skip
        panels[3].plot(exact, height, color=EXACT, linewidth=1.1)
        panels[3].set_title("10 calls")
        for axes in panels:
            axes.set(facecolor=SKY, ylim=(-HIGHEST, HIGHEST))
            axes.axis("off")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130, facecolor=SKY)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--paths", type=int, default=20, help="on either side")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("runs/there_and_back"))
    args = parser.parse_args()
    model, at = DATA.under(SDE), times(600)

    start = DATA.sample(args.paths, seed=11)
    forward = simulate(SDE, start, at.tolist(), seed=0, keep_path=True).path[..., 0]
    flow = ReverseSampler(SDE, model, "heun", grid=at.flip(0).tolist(), denoise=False)
    shape = (args.paths, 1)
    back = flow.solve(shape, seed=3, keep_path=True, dtype=torch.float64).path[..., 0].flip(0)

    few = ReverseSampler(SDE, model, steps=9)  # and one call to denoise
    found = few.solve((args.samples, 1), seed=0, dtype=torch.float64)
    exact, other = (DATA.sample(args.samples, seed=seed) for seed in (5, 6))
    print(f"{found.nfe} calls by {few.plan.solver}")
    print(f"sliced W2 to exact samples {sliced_wasserstein(found.x, exact):.4f}")
    print(f"of exact samples to others {sliced_wasserstein(other, exact):.4f}")
    draw(forward, back, at, found.x, args.out / "there_and_back.png")
    print(f"wrote there_and_back.png to {args.out.resolve()}")


if __name__ == "__main__":
    main()
