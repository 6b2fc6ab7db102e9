"""Post-hoc averages of the weights: their length is chosen after the training."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from scoresde._check import check_width, instance, path_of, positive_int, refuse
from scoresde._html import Shown
from scoresde._progress import progress as progress_of
from scoresde.model import ScoreModel
from scoresde.sde import SDE
from scoresde.training.checkpoint import load
from scoresde.training.ema import exponent
from scoresde.training.files import (
    CONFIG,
    check_config,
    damaged,
    open_folder,
    read,
    write,
)

__all__ = ["PowerEMA", "posthoc_ema", "snapshot", "weights_of"]

FORMAT, TRACK = "scoresde snapshot", "track{}.safetensors"


@final
class PowerEMA(Shown):
    """A moving average with a power-function profile, whose length is a share of the run.

    After step t it is the mean of the weights theta(s), s <= t, with weights in proportion to
    s^gamma: theta_bar <- beta theta_bar + (1 - beta) theta with beta = (1 - 1/t)^(gamma + 1).
    Early iterates have small weights, so no warm-up is needed. The exponent follows from the
    width, the standard deviation of the profile as a share of t, (gamma + 1)^(1/2) /
    ((gamma + 2) (gamma + 3)^(1/2)): 0.05 and 0.10 are gamma = 16.97 and 6.94. Karras et al. 2024
    (EDM2, arXiv 2312.02696), section 3.1 and appendix C.

    Args:
        model: the model that is trained; only its trainable parameters are averaged.
        width: the width of the profile, in (0, 0.2886]; 0.2886 is the plain mean.

    Attributes:
        gamma: the exponent.
        updates: t, the number of updates.
        tensors: the averages by the names of the parameters.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `width` is out of range.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> mean = PowerEMA(net, width=1 / 12**0.5 - 1e-9)
        >>> for value in (1.0, 2.0, 6.0):
        ...     _ = nn.init.constant_(net.weight, value)
        ...     mean.update(net)
        >>> round(mean.tensors["weight"].item(), 4)
        3.0
    """

    def __init__(self, model: nn.Module, width: float) -> None:
        instance("model", model, nn.Module, "pass the model that is trained")
        self.width = check_width("width", width)
        self.gamma = exponent(self.width)
        self.updates = 0
        self._model, self._current = model, _trained(model)
        self.tensors = {n: p.detach().clone() for n, p in self._current.items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the parameters of `model` after an optimiser step."""
        if model is not self._model:
            self._model, self._current = model, _trained(model)
        self.updates += 1
        beta = (1 - 1 / self.updates) ** (self.gamma + 1)
        current = list(self._current.values())
        torch._foreach_lerp_(list(self.tensors.values()), current, 1 - beta)

    def restore(self, tensors: Mapping[str, Tensor], updates: int, where: str) -> None:
        """Continue after `updates` updates with these averages."""
        found = {k: tuple(v.shape) for k, v in tensors.items()}
        own = {k: tuple(v.shape) for k, v in self.tensors.items()}
        if found != own:
            remedy = "train the same parameters as in the run that is resumed"
            raise refuse(where, f"averages of {len(own)} parameters", len(found), remedy)
        for name, value in tensors.items():
            self.tensors[name].copy_(value)
        self.updates = updates


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def weights_of(
    steps: Sequence[float], gammas: Sequence[float], step: float, gamma: float
) -> tuple[Tensor, float]:
    """The combination of profiles that is closest to another one, and its residual.

    The profiles are p(s) = (gamma + 1) s^gamma / t^(gamma + 1) on [0, t], their inner product for
    t_a <= t_b is (gamma_a + 1)(gamma_b + 1) / (gamma_a + gamma_b + 1) (t_a / t_b)^gamma_b / t_b,
    and the weights solve the normal equations (EDM2, section 3.2 and appendix C) with a sum of 1,
    since each profile integrates to 1. Without this constraint the average of constant weights
    would have an error proportional to the weights, which under a schedule that ends at 0 exceeds
    the difference between an average and the last weights.

    Args:
        steps, gammas: steps and exponents of the available profiles.
        step, gamma: those of the wanted profile.

    Returns:
        The weights, (n,) float64, and ||combination - wanted|| / ||wanted||, in L2 of time.
    """
    t = torch.tensor([*steps, step], dtype=torch.float64, device="cpu")
    g = torch.tensor([*gammas, gamma], dtype=torch.float64, device="cpu")
    late = torch.where(t[:, None] > t, g[:, None], g)  # the exponent of the later profile
    ratio = torch.minimum(t[:, None], t) / torch.maximum(t[:, None], t)
    inner = (g[:, None] + 1) * (g + 1) / (g[:, None] + g + 1)
    inner = inner * ratio**late / torch.maximum(t[:, None], t)
    scale = inner.diagonal().rsqrt()  # unit vectors improve the conditioning
    inner = inner * scale[:, None] * scale
    mass = scale / scale[-1]  # integrals of the unit vectors, relative to the wanted one
    system = torch.cat([torch.cat([inner[:-1, :-1], mass[None, :-1]]), mass[:, None]], 1)
    system[-1, -1] = 0.0  # the multiplier of the constraint
    right = torch.cat([inner[:-1, -1], mass[-1:]])
    solved = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:-1, 0]
    rest = 1 - 2 * solved @ inner[:-1, -1] + solved @ inner[:-1, :-1] @ solved
    return solved * mass[:-1], math.sqrt(max(0.0, float(rest)))


def snapshot(folder: Path, step: int, tracks: Sequence[PowerEMA], run: Mapping[str, Any]) -> None:
    """Write the averages after a step to `folder/<step>` atomically."""
    config = {"format": FORMAT, "step": step, "run": dict(run)}
    config["updates"] = [track.updates for track in tracks]
    config["widths"] = [track.width for track in tracks]
    files = {TRACK.format(i): track.tensors for i, track in enumerate(tracks)}
    write(folder / f"{step:09d}", config, files)


def posthoc_ema(
    out: str | os.PathLike[str],
    width: float,
    *,
    step: int | None = None,
    net: nn.Module | None = None,
    sde: SDE | None = None,
    progress: bool = False,
) -> ScoreModel:
    """The model of a run with an average of any length, computed from its snapshots.

    A `Trainer` with `snapshot_every` keeps two averages of the weights (see `PowerEMA`) and writes
    both at intervals. The profile of any other width is approximated by a linear combination of
    the profiles of all snapshots, by least squares, and its weights by the same combination.
    Buffers are those of the checkpoint. Karras et al. 2024 (EDM2, arXiv 2312.02696), section 3.

    Between the two widths the error decreases with at least the third power of the number of
    snapshots. With 20 snapshots it is about 2e-4 of the distance between the average and the last
    weights under a constant learning rate, and 3e-3 under the cosine schedule, where this
    distance is small; with 40 it is 4e-5 and 2e-4.

    Args:
        out: the folder of the run.
        width: the width of the profile, in (0, 0.2886). Widths far outside those of the two
            averages, or much smaller than the interval of the snapshots, cannot be approximated.
        step: the step at which the average ends; by default that of the last snapshot.
        net, sde: see `load`.
        progress: show a bar with the time left, or lines if stderr is not a terminal.

    Returns:
        The model, in eval mode.

    Raises:
        FileNotFoundError: there is no checkpoint or no snapshot.
        ValueError: see `load`; the width is out of range, the snapshots cannot approximate it
            (the relative residual is above a tenth), or there is no snapshot of that step.

    Example:
        >>> import tempfile
        >>> from scoresde import VPSDE, Preconditioned, Trainer
        >>> from scoresde.options import Records
        >>> from scoresde.nets import MLP
        >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        >>> with tempfile.TemporaryDirectory() as out:
        ...     start = Preconditioned(MLP(2, width=8), VPSDE())
        ...     _ = Trainer(start, x, steps=40, out=out, records=Records(snapshot_every=5)).fit()
        ...     model = posthoc_ema(out, 0.07)
        >>> model.training
        False
    """
    gamma = exponent(check_width("width", width))
    folder = path_of("out", out)
    model = load(folder / "checkpoint", net=net, sde=sde)
    found = _snapshots(folder / "snapshots")
    last = found[-1][1]["step"] if step is None else positive_int("step", step)
    used = [entry for entry in found if entry[1]["step"] <= last]
    if not used or used[-1][1]["step"] != last:
        steps = ", ".join(str(config["step"]) for _, config in found)
        raise refuse("step", f"one of {steps}", last, "pass one of these, or None for the last")
    tracks = [
        (folder, config, i, t, exponent(w))
        for folder, config in used
        for i, (t, w) in enumerate(zip(config["updates"], config["widths"], strict=True))
        if t > 0  # at 0 all steps so far were skipped
    ]
    if not tracks:
        remedy = "name a later step, or see why no loss before it was finite"
        raise refuse("step", "one after the first update", last, remedy)
    weights, missed = weights_of(
        [t[3] for t in tracks], [t[4] for t in tracks], used[-1][1]["updates"][0], gamma
    )
    if missed > 0.1:
        got = f"{width}, whose profile {len(used)} snapshots miss by {100 * missed:.0f} %"
        raise refuse("width", "one in reach", got, "take another, or snapshot more often")
    total: dict[str, Tensor] = {}
    with closing(progress_of(len(tracks), "posthoc_ema", "averages", shown=progress)) as bar:
        for weight, (folder, config, i, *_) in zip(weights.tolist(), tracks, strict=True):
            for name, value in read(folder, config, TRACK.format(i)).items():
                term = weight * value.double()
                total[name] = total[name] + term if name in total else term
            bar.update()
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in total.items():
            if name not in own or own[name].shape != value.shape:
                remedy = "the checkpoint and the snapshots are not of one run"
                raise refuse("out", f"a parameter like {name} {tuple(value.shape)}", out, remedy)
            own[name].copy_(value)
    return model


def _snapshots(place: Path) -> list[tuple[Path, dict[str, Any]]]:
    folders = sorted(f for f in place.glob("*") if f.name.isdigit()) if place.is_dir() else []
    if not folders:
        raise FileNotFoundError(
            f"out: expected snapshots in {place}, got none; train with snapshot_every=..."
        )
    found = [open_folder(folder) for folder in folders]
    for folder, config in found:
        lists = [config.get(key) for key in ("updates", "widths")]
        sound = config.get("format") == FORMAT and isinstance(config.get("step"), int)
        if not sound or not all(isinstance(v, list) and len(v) == 2 for v in lists):
            raise damaged(folder / CONFIG, "no snapshot")
        check_config(folder, config)
        if config.get("run") != found[-1][1].get("run"):
            remedy = "remove those of the other run"
            raise refuse("out", "the snapshots of one run", str(folder), remedy)
    return found
