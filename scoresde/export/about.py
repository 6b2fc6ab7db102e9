"""Metadata of an exported file, sufficient to sample with it elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde._check import instance
from scoresde.export.network import Network, null_label
from scoresde.model import Preconditioned
from scoresde.quantisation import Quantisation
from scoresde.schedule.grid import make_grid
from scoresde.sde import SDE, AffineSDE

__all__ = ["BOUND", "about_network"]

BOUND = 256 * torch.finfo(torch.float32).eps
"""The largest deviation of a file from its model that counts as rounding, 3e-5."""

FORMAT, VERSION = "scoresde export", 1
ROWS = 200  # intervals of the table: every (200/N)-th row is the log-SNR grid of N steps

MEANING = {
    "x0": "the denoised state E[x_0 | x_t]",
    "eps": "the noise E[eps | x_t]; the score is -eps / sigma",
    "v": "the velocity alpha eps - sigma x_0",
    "score": "the gradient of log p_t at x",
    "flow": "the velocity eps - x_0",
}


def about_network(
    network: Network, inputs: tuple[Tensor, ...], quantisation: Quantisation | None, tools: str
) -> dict[str, object]:
    """The metadata of a file as values of JSON; `tools` are the packages that produced it."""
    if quantisation is not None:
        instance("quantisation", quantisation, Quantisation, "pass e.g. Quantisation(256)")
    model, sde = network.model, network.model.sde
    net = model.net if isinstance(model, Preconditioned) else model
    x = inputs[0]
    inputs_of: dict[str, object] = {
        "x": {"dtype": "float32", "shape": ["batch", *x.shape[1:]]},
        "t": {"dtype": "float64", "shape": ["batch"], "range": [sde.t_min, sde.T]},
    }
    if network.classes:
        label = {"classes": network.classes, "none": null_label(model)}
        inputs_of["label"] = {"dtype": "int64", "shape": ["batch"], **label}
    return {
        "format": FORMAT,
        "version": VERSION,
        "output": network.output,
        "meaning": MEANING[network.output],
        "inputs": inputs_of,
        "sde": {"class": type(sde).__name__, "fields": _fields(sde)},
        "time": {"t_min": sde.t_min, "t_end": sde.t_end, "T": sde.T},
        "prior": _prior(sde),
        "schedule": _table(sde),
        "network": {
            "class": type(net).__name__,
            "parameters": sum(p.numel() for p in net.parameters()),
            "predicts": getattr(model, "predicts", None),
        },
        "quantisation": None if quantisation is None else quantisation.to_dict(),
        "data": None if model.data is None else model.data.to_dict(),
        "accuracy": {"bound": BOUND, "of": "the largest term that the output is formed of"},
        "versions": _versions(("scoresde", "torch", *tools.split())),
    }


def _fields(sde: SDE) -> dict[str, object] | None:
    """The fields of an SDE if they are numbers, else None."""
    names = getattr(sde, "__dataclass_fields__", None)
    if names is None:
        return None
    fields = {name: getattr(sde, name) for name in names}
    plain = all(isinstance(value, int | float | tuple) for value in fields.values())
    return fields if plain else None


def _prior(sde: SDE) -> dict[str, float] | None:
    return {"mean": 0.0, "std": sde.prior_std} if isinstance(sde, AffineSDE) else None


def _table(sde: SDE) -> dict[str, list[float]] | None:
    if not isinstance(sde, AffineSDE):
        return None
    nodes = [sde.at(t) for t in make_grid("log_snr", sde, ROWS).times]
    names = ("t", "alpha", "sigma", "log_snr")
    return {name: [float(getattr(node, name)) for node in nodes] for name in names}


def _versions(names: Sequence[str]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions
