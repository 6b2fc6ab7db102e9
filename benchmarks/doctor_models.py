"""The data and the healthy models of `doctor.py`: an exact one, and networks, trained once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from scoresde import (
    SDE,
    VPSDE,
    Gaussian,
    GaussianMixture,
    Preconditioned,
    ScoreModel,
    Trainer,
    load,
    save,
)
from scoresde._io import replacing
from scoresde.data import Data, load_data, toy
from scoresde.nets import network_for
from scoresde.node import Node
from scoresde.options import Loss, Records
from scoresde.prediction import Prediction

VP = VPSDE()
STEPS = 1000
QUIET = Records(calibrate=None)
KINDS = ("averaged", "raw")
Pairs: TypeAlias = "dict[int, tuple[ScoreModel, ScoreModel]]"
"""Step -> the averaged and the raw model."""

TRAINING = (
    *(f"scoresde/{room}" for room in ("training", "nets", "losses", "sde", "data")),
    *(f"scoresde/{file}.py" for file in ("model", "options", "oracles")),
    "benchmarks/doctor_models.py",
)
"""The code on which a trained model depends."""


def data_of(name: str, seed: int, n: int = 4000) -> Data:
    """The data of a healthy run."""
    if name == "digits":
        return load_data("digits", split="all")  # type: ignore[return-value]  # is in memory
    return classes(n, seed) if name == "classes" else toy(name, n, seed=seed)


@cache
def mixture() -> GaussianMixture:
    """Six Gaussians of any covariance in 8-D, standardised."""
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    root = 0.25 * torch.randn(6, 8, 8, generator=generator, dtype=torch.float64)
    covariances = root @ root.transpose(1, 2) + 0.02 * torch.eye(8, dtype=torch.float64)
    means = means - means.mean(0)
    within = covariances.diagonal(dim1=1, dim2=2).mean()
    scale = float((means.square().mean() + within).sqrt())
    return GaussianMixture(means / scale, covariances / scale**2)


@cache
def components() -> tuple[Gaussian, ...]:
    """The components of the mixture."""
    own = mixture()
    return tuple(Gaussian(m, c) for m, c in zip(own.means, own.full_covariances(), strict=True))


def classes(n: int, seed: int) -> Data:
    """Samples of the mixture with their components as labels."""
    label = torch.randint(6, (n,), generator=torch.Generator().manual_seed(seed))
    x = torch.empty(n, 8)
    for k, part in enumerate(components()):
        rows = label == k
        x[rows] = part.sample(int(rows.sum()), seed=10 * seed + k).float()
    return Data(x, cond={"label": label}, classes=6)


class OfClasses(ScoreModel):
    """The exact score of the component of the label, and of the mixture without one."""

    def __init__(self, sde: SDE = VP) -> None:
        super().__init__()
        self.sde = sde
        self.whole = mixture().under(sde)  # type: ignore[arg-type]  # affine here
        self.parts = nn.ModuleList(part.under(sde) for part in components())  # type: ignore[arg-type]

    @property
    def nulls(self) -> Mapping[str, object]:
        return {"label": -1}

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.whole.data_scale

    def predict(
        self, node: Node, x: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Prediction:
        value = self.whole.predict(node, x).v
        if cond:
            for k, part in enumerate(self.parts):
                value = torch.where((cond["label"] == k)[:, None], part.predict(node, x).v, value)
        return Prediction(x, node, value, "v")


def train(
    data: Data,
    seed: int,
    *,
    steps: int = STEPS,
    sde: SDE = VP,
    loss: Loss = Loss(),
    keep: tuple[int, ...] = (),
) -> Pairs:
    """A tiny network; for each step of `keep` its averaged and its raw model, the last always."""
    torch.manual_seed(seed)
    net = network_for(tuple(data.x.shape[1:]), classes=data.classes, preset="tiny")
    found: Pairs = {}

    def hold(step: int, averaged: ScoreModel) -> None:
        if step in {*keep, steps}:
            found[step] = deepcopy(averaged).eval(), deepcopy(trainer.model).eval()

    every = min([*keep, steps])
    trainer = Trainer(
        Preconditioned(net, sde),
        data,
        steps=steps,
        seed=seed,
        loss=loss,
        records=QUIET,
        callback=hold,
        callback_every=every,
        device="cpu",
    )
    trainer.fit()
    return found


def kept(
    folder: Path,
    name: str,
    data: Data,
    seed: int,
    *,
    steps: int = STEPS,
    sde: SDE = VP,
    loss: Loss = Loss(),
    keep: tuple[int, ...] = (),
) -> Pairs:
    """What `train` returns, written to a folder when it is trained and read from there later.

    The models of a changed training are trained anew: the name of their folder has the hash of
    the code and of the arguments.
    """
    about = f"{name} {seed} {steps} {sde!r} {loss!r} {keep} {code(*TRAINING)}"
    place = folder / f"{name}-{seed}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
    if not place.exists():
        found = train(data, seed, steps=steps, sde=sde, loss=loss, keep=keep)
        with replacing(place) as half:
            for step, pair in found.items():
                for kind, model in zip(KINDS, pair, strict=True):
                    save(model, half / f"{step}" / kind)
    return {
        step: (load(place / f"{step}" / "averaged"), load(place / f"{step}" / "raw"))
        for step in sorted({*keep, steps})
    }


def code(*names: str) -> str:
    """A hash of the code of rooms of the package, or of files of the repository."""
    root = Path(__file__).parents[1]
    places = [root / name for name in names]
    files = [f for p in places for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
