"""Magnitude-preserving layers against the layers of `UNet`: the digits, at equal steps.

    python benchmarks/magnitude.py [--steps 300] [--seeds 2] [--rows "U-Net, Muon"]

The U-Net of the digits beside one of the same widths, blocks and attention whose layers are those
of EDM2 (Karras et al. 2024, arXiv 2312.02696, configuration G): no group norm and no bias; weights
of unit norm per output, forced after each step; SiLU over 0.596; pixel norm in the encoder; sums
and concatenations that keep the variance; one learned gain at the output. Both predict v, with the
loss, times, batches, schedule and average of the recipe; the second network is told
log(sigma / alpha) / 4, as in EDM2, and is trained by Muon and by Adam at two rates.

Judged as in recipe.py. A cell is kept in results/magnitude.json; `python benchmarks/page.py` shows
the table in docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, scaled_dot_product_attention, silu

from scoresde import VPSDE, Preconditioned, Trainer
from scoresde.options import Optim, Records

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.built import built
from benchmarks.recipe import kind_of

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "magnitude.json"
WIDTHS = (32, 64, 64)
"""Channels of the levels, those of the preset "small"."""


def normalised(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """x over the root mean square of these axes."""
    size = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / (1e-4 + size * math.sqrt(size.numel() / x.numel()))


def act(x: Tensor) -> Tensor:
    return silu(x) / 0.596


def mixed(a: Tensor, b: Tensor, t: float = 0.3) -> Tensor:
    """A weighted sum of the variance of its parts."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def joined(a: Tensor, b: Tensor) -> Tensor:
    """A concatenation to which both parts contribute alike."""
    both = math.sqrt((a.shape[1] + b.shape[1]) / 2)
    return torch.cat([a * both / math.sqrt(a.shape[1]), b * both / math.sqrt(b.shape[1])], dim=1)


class Weight(nn.Module):
    """A convolution, or a linear layer for (B, C), whose outputs have weights of unit norm."""

    def __init__(self, ins: int, outs: int, kernel: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outs, ins, *[kernel] * 2 if kernel else ()))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        axes = tuple(range(1, self.weight.ndim))
        if self.training:
            with torch.no_grad():
                self.weight.copy_(normalised(self.weight, axes))
        w = normalised(self.weight, axes) * (gain / math.sqrt(self.weight[0].numel()))
        return x @ w.T if w.ndim == 2 else conv2d(x, w, padding=w.shape[-1] // 2)


class Block(nn.Module):
    """Two modulated convolutions beside a skip, then attention if it has heads."""

    def __init__(self, ins: int, outs: int, emb: int, decodes: bool, heads: int) -> None:
        super().__init__()
        self.decodes, self.heads = decodes, heads
        self.first = Weight(ins if decodes else outs, outs, 3)
        self.second = Weight(outs, outs, 3)
        self.emb, self.gain = Weight(emb, outs), nn.Parameter(torch.zeros(()))
        self.skip = Weight(ins, outs, 1) if ins != outs else None
        self.qkv = Weight(outs, 3 * outs, 1) if heads else None
        self.out = Weight(outs, outs, 1) if heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if not self.decodes:
            x = x if self.skip is None else self.skip(x)
            x = normalised(x, (1,))
        y = self.first(act(x))
        y = self.second(act(y * (self.emb(emb, self.gain) + 1)[:, :, None, None]))
        if self.decodes and self.skip is not None:
            x = self.skip(x)
        x = mixed(x, y)
        if self.qkv is not None and self.out is not None:
            parts = self.qkv(x).flatten(2).unflatten(1, (self.heads, 3, -1))
            q, k, v = normalised(parts, (3,)).transpose(3, 4).unbind(dim=2)
            y = scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)
            x = mixed(x, self.out(y))
        return x


class MagnitudeUNet(nn.Module):
    """A U-Net of magnitude-preserving layers for images (B, 1, H, W), told a time (B,)."""

    ends: ClassVar[tuple[str, ...]] = ("enter", "exit")

    def __init__(self, widths: tuple[int, ...] = WIDTHS, heads: int = 4) -> None:
        super().__init__()
        emb, last = 4 * widths[0], len(widths) - 1
        self.register_buffer("rates", 2 * math.pi * torch.randn(emb))
        self.register_buffer("phases", 2 * math.pi * torch.rand(emb))
        self.time = Weight(emb, emb)
        self.enter = Weight(2, widths[0], 3)
        self.down, skips = nn.ModuleList(), [widths[0]]
        for level, outs in enumerate(widths):
            if level:
                self.down.append(Block(skips[-1], skips[-1], emb, False, 0))
                skips.append(skips[-1])
            self.down.append(Block(skips[-1], outs, emb, False, heads * (level == last)))
            skips.append(outs)
        now = widths[-1]
        self.middle = nn.ModuleList([Block(now, now, emb, True, n) for n in (heads, 0)])
        self.up = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(2):
                outs = widths[level]
                self.up.append(Block(now + skips.pop(), outs, emb, True, heads * (level == last)))
                now = outs
        self.exit, self.gain = Weight(now, 1, 3), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        wave = math.sqrt(2) * (t[:, None] * self.rates + self.phases).cos()
        emb = act(self.time(wave))
        h = self.enter(torch.cat([x, torch.ones_like(x)], dim=1))
        skips = [h]
        for i, layer in enumerate(self.down):
            h = layer(avg_pool2d(h, 2) if i % 2 else h, emb)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, emb)
        for layer in self.up:
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:
                h = interpolate(h, size=skip.shape[2:])
            h = layer(joined(h, skip), emb)
        return self.exit(h, self.gain)


ROWS: dict[str, dict[str, Any] | None] = {
    "U-Net, Muon": None,
    "magnitude-preserving, Muon at 0.01": {"optimizer": "muon", "lr": 1e-2},
    "magnitude-preserving, Adam at 0.01": {"optimizer": "adamw", "lr": 1e-2},
    "magnitude-preserving, Adam at 0.003": {"optimizer": "adamw", "lr": 3e-3},
}
"""The options of each row; None for the network and the recipe of the package."""


def one(row: str, steps: int, seed: int) -> dict[str, float]:
    kind = kind_of("digits")
    torch.manual_seed(seed)
    options = ROWS[row]
    if options is None:
        model = built(kind.train.shape[1:], levels=kind.levels)
    else:
        model = Preconditioned(MagnitudeUNet(), VPSDE(), predicts="v", time="log_sigma/4")
    trainer = Trainer(
        model,
        kind.train,
        steps=steps,
        optim=Optim(precision="no", **(options or {})),
        records=Records(calibrate=None),
        seed=seed,
        device="cpu",
    )
    began = time.process_time()
    model = trainer.fit()
    seconds = time.process_time() - began
    parameters = sum(p.numel() for p in model.parameters())
    return {**kind.judged(model, seed), "seconds": seconds, "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"steps": args.steps, "rows": {}}
    if FILE.exists():
        kept = json.loads(FILE.read_text(encoding="utf-8"))
        found = kept if kept["steps"] == args.steps else found
    for seed in range(args.seeds):
        for row in args.rows:
            done = found["rows"].setdefault(row, {})
            if str(seed) in done:
                continue
            cell = done[str(seed)] = one(row, args.steps, seed)
            print(seed, row, *(f"{k} {v:.4g}" for k, v in cell.items()), flush=True)
            RESULTS.mkdir(exist_ok=True)
            FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
