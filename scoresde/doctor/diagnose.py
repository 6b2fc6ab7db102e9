"""`diagnose`: what is wrong with a model, its schedule or its data."""

from __future__ import annotations

from contextlib import closing
from typing import TypeAlias

import torch
from torch import Tensor

from scoresde._check import fail, instance, positive_int, wrong_type
from scoresde._progress import progress as progress_of
from scoresde._tensor import check_data, ordinary, seeded
from scoresde.cond import Cond, check_cond
from scoresde.data import Data, LazyData
from scoresde.doctor.examination import STAGES, Examination
from scoresde.doctor.finding import Report
from scoresde.doctor.probe import probe_of
from scoresde.doctor.units import facts_of
from scoresde.model import ScoreModel
from scoresde.sde import as_affine

__all__ = ["diagnose"]

Examined: TypeAlias = "Tensor | tuple[Tensor, Cond] | Data | LazyData"

MOST = 4096  # data that are looked at
LEAST_ROWS = 64
VALUES = 1 << 21  # entries of the data at each level, which bounds the memory


@ordinary
def diagnose(
    model: ScoreModel,
    data: Examined,
    *,
    raw: ScoreModel | None = None,
    held_out: Examined | None = None,
    t_end: float | None = None,
    n: int | None = None,
    levels: int = 12,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Report:
    """Find out what is wrong with a model, its schedule or its data.

    The model predicts the noise of noised data at several noise levels. Identities that hold for
    the score of any data are tested there: its scale and sign, its coordinate, the time that it is
    told, Stein's identities, bounds on its length. Its loss is compared with that of denoisers
    that need no training. Of the faults that can be removed without training the one is named
    whose removal saves most, and what it saves is the damage that it explains. What is wrong
    beside it is listed too if it remains without the fault, and as a note if it does not.

    A number is a finding only if it is beyond both a tolerance and the z-score at which all checks
    together give a false finding with a probability of at most 0.01 (`limit`).

    Args:
        model: the model, under an affine SDE. It is used as it is: in training mode dropout is on,
            and is found.
        data: (N, *D) in model units, a pair (x, cond), or `scoresde.data.Data`; at least 64
            samples, best such as were not used for training.
        raw: the same model with the raw weights in place of their average, for the check of the
            average.
        held_out: data that were not used for the training, in any form of `data`, for the check of
            memorisation; `data` are then those of the training.
        t_end: the time at which sampling stops; that of the SDE by default.
        n: the number of samples at each noise level; by default 512, half of the data at most.
        levels: the number of noise levels, evenly spaced in the log-SNR between t_end and T.
        seed: of the rows and their noise.
        batch_size: the number of samples in a call.
        progress: show a bar with the time left, or lines if stderr is not a terminal.

    Returns:
        The findings, the most damaging first.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, the SDE is not
            affine, the data are too few or contain NaN, or the model does not take them.

    Example:
        >>> from scoresde import VPSDE, FunctionScore, Gaussian
        >>> truth = Gaussian(torch.zeros(2), torch.tensor([1.0, 0.3]))
        >>> exact = truth.under(VPSDE())
        >>> diagnose(exact, truth.sample(1000)).healthy
        True
        >>> double = FunctionScore(VPSDE(), lambda t, x: 2 * exact.score(float(t), x))
        >>> diagnose(double, truth.sample(1000)).first.name
        'scale'
    """
    instance("model", model, ScoreModel, "wrap the network: Preconditioned(net, sde)")
    if raw is not None:
        instance("raw", raw, ScoreModel, "pass the model with its raw weights")
    sde = as_affine("model.sde", model.sde, "the noised data must have a closed form")
    end = sde.t_end if t_end is None else sde.check_finite("t_end", t_end, "see sde.t_end", True)
    x, cond = _rows(model, data, seed)
    if len(x) < LEAST_ROWS:
        remedy = "the checks are statistical: pass more samples"
        raise fail("data", f"at least {LEAST_ROWS} samples", x, remedy)
    size = positive_int("n", 512 if n is None else n)
    if n is None:
        size = min(size, max(LEAST_ROWS // 2, VALUES // x[0].numel()))
    rows = min(size, len(x) // 2)
    count = positive_int("levels", levels)
    batch = positive_int("batch_size", batch_size)
    other = None if held_out is None else _rows(model, held_out, seed)
    if other is not None and other[0].shape[1:] != x.shape[1:]:
        raise fail("held_out", f"samples of shape {tuple(x.shape[1:])}", other[0], "as in data")
    with closing(progress_of(STAGES + 1, "examination", "checks", shown=progress)) as bar:
        probe = probe_of(model, x, cond, end, rows=rows, count=count, seed=seed, batch_size=batch)
        bar.update()  # a tenth of the time, after which the time left is known
        return Examination(probe, facts_of(x, model, sde), x, cond, raw, other, bar).report()


def _rows(model: ScoreModel, data: Examined, seed: int) -> tuple[Tensor, Cond]:
    """At most `MOST` of the data in a random order, on the device of the model."""
    generator = seeded(seed)
    if isinstance(data, Data | LazyData):
        part = data[torch.randperm(len(data), generator=generator, device="cpu")[:MOST]]
        x: object = part.x
        cond: Cond = part.cond
    elif isinstance(data, tuple) and len(data) == 2:
        x, cond = data
    else:
        x, cond = data, None
    if not isinstance(x, Tensor):
        remedy = "pass (N, *D) in model units, a pair (x, cond), or Data"
        raise wrong_type("data", "samples", data, remedy)
    place = next((p.device for p in model.parameters()), x.device)
    x = check_data(x).to(place)
    cond = check_cond(model, cond, len(x), place)
    order = torch.randperm(len(x), generator=generator, device="cpu")[:MOST].to(place)
    return x[order], cond and {name: value[order] for name, value in cond.items()}
