"""The parametrisation: is the output what it is read as?"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from scoresde.doctor.probe import Probe, eps_of
from scoresde.doctor.repair import Repair, reread
from scoresde.model import Preconditioned
from scoresde.prediction import COORDINATES

__all__ = ["coordinate_repairs"]


def coordinate_repairs(probe: Probe) -> list[Repair]:
    """The model with its output read in each of the other coordinates.

    p x_0 + q eps is the same linear map of eps at every row, so the output of a network of v is
    the noise only by an error, and reading it so costs loss at most levels. The gain is the mean
    difference of the two losses of each row. Between "edm" and the others the network is called
    again, since it is given a scaled state there, on all rows only if it is better on a few.
    """
    model = probe.model
    if not isinstance(model, Preconditioned):
        own = probe.predictions[0].kind
        others = [kind for kind in COORDINATES if kind != own]
        return [_repair(probe, own, kind, _reread(probe, kind)) for kind in others]
    found = []
    for kind in [*COORDINATES, "edm"]:
        if kind == model.predicts:
            continue
        if "edm" in (kind, model.predicts):
            changed = as_predicting(model, kind)
            if not probe.may_gain(changed, probe.cond):
                continue
            eps: Sequence[Tensor] = [eps_of(p) for p in probe.predict(changed, probe.cond)]
        else:
            eps = _reread(probe, kind)
        found.append(_repair(probe, model.predicts, kind, eps))
    return found


def as_predicting(model: Preconditioned, kind: str) -> Preconditioned:
    """The same network, read as another prediction."""
    return Preconditioned(model.net, model.sde, kind, model.time, model.sigma_data, model.null)


def _reread(probe: Probe, kind: str) -> list[Tensor]:
    return [eps_of(reread(one, kind, 1.0)) for one in probe.predictions]


def _repair(probe: Probe, own: str, kind: str, eps: Sequence[Tensor]) -> Repair:
    return Repair(
        name="coordinate",
        number=float(probe.nats(probe.losses).mean()),
        reference=float(probe.nats(probe.loss(eps)).mean()),
        sentence=f"The output of the model is read as {own}, but {kind} fits the data better.",
        remedy=f"Read the network as what it was trained on: Preconditioned(net, sde, {kind!r}).",
        gain=probe.gain(eps),
        eps=eps,
        tests=len(COORDINATES),
    )
