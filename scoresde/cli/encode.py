"""`scoresde encode` and `scoresde decode`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from scoresde._io import replacing
from scoresde.cli.common import check_file, emit, is_first, progress
from scoresde.cli.config import Call
from scoresde.cli.flags import Calling, argument, flag
from scoresde.cli.guiding import Guiding, guided
from scoresde.cli.npz import numbers_in, read_npz
from scoresde.cli.opened import Opened, open_checkpoint
from scoresde.cli.pictures import draw, drawable
from scoresde.cli.samples import open_samples

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde.model import ScoreModel
    from scoresde.solvers import AdaptiveODE

__all__ = ["Decode", "Encode", "flow_solver", "raw_values"]


def flow_solver(tolerance: float) -> AdaptiveODE:
    """The adaptive solver of the probability flow at a tolerance."""
    from scoresde.solvers import AdaptiveODE

    return AdaptiveODE(rtol=tolerance, atol=tolerance)


@final
@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode data as latent codes, by the probability flow from data to noise.

    The flow is one to one: `scoresde decode` gives the data back, to the tolerance, with the same
    --guidance if there is any. The file holds
    z (the codes), row (the number of each sample in the data set), nfe, the labels and conditions
    if the model was told them, and with --check round_trip, the RMS error of each sample after
    decoding.
    """

    EXAMPLES: ClassVar[str] = """
scoresde encode runs/moons moons --limit 1000 --out latents.npz --check
scoresde encode runs/digits digits --data-option split=test --tolerance 1e-4 --out latents.npz
"""

    model: Path = argument("MODEL")
    data: str = argument("DATA")
    out: Path = flag()
    """The .npz file."""
    data_option: list[str] = field(default_factory=list)
    holdout: float = 0.0
    unconditional: bool = False
    limit: int | None = None
    tolerance: float = 1e-5
    check: bool = False
    """Decode again and measure the difference, at twice the calls."""
    batch_size: int = 256
    seed: int = 0
    device: str | None = None
    calling: Calling = Calling()
    guiding: Guiding = Guiding()

    def run(self, call: Call) -> None:
        """Encode."""
        import numpy as np

        place = _place(self.out, self.calling.overwrite)
        opened = open_checkpoint(self.model, self.device)
        samples = open_samples(
            opened,
            self.data,
            self.data_option,
            limit=self.limit,
            seed=self.seed,
            holdout=self.holdout,
            unconditional=self.unconditional,
        )
        model = guided(opened, self.guiding, samples.names)
        columns: dict[str, list[Any]] = {}
        with progress(len(samples), "encode", self.calling.json) as bar:
            for _, x, cond in samples.batches(self.batch_size):
                found = _codes(model, x, cond, self.tolerance, self.check)
                for name, value in found.items():
                    columns.setdefault(name, []).append(value.cpu().numpy())
                bar.update(len(x))
        arrays = {name: np.concatenate(values) for name, values in columns.items()}
        arrays["row"] = samples.rows.numpy()
        _save(place, arrays, opened)
        result: dict[str, Any] = {
            "out": str(place),
            "samples": len(samples),
            "shape": arrays["z"].shape[1:],
            "mean_square": float(np.square(arrays["z"], dtype=np.float64).mean()),
            "prior_mean_square": opened.model.sde.prior_std**2,
            "nfe": float(arrays["nfe"].mean()),
        }
        text = [
            f"{len(samples)} codes in {place}",
            f"mean square {result['mean_square']:.4f}, of the prior "
            f"{result['prior_mean_square']:.4f}; {result['nfe']:.1f} network calls for a sample",
        ]
        if self.check:
            errors = arrays["round_trip"]
            result |= {"round_trip": float(errors.mean()), "round_trip_max": float(errors.max())}
            text.append(
                f"round trip: RMS error {result['round_trip']:.3g}, at most "
                f"{result['round_trip_max']:.3g}"
            )
        emit(result, "\n".join(text), self.calling.json)


def _codes(model: ScoreModel, x: Any, cond: Any, tolerance: float, check: bool) -> dict[str, Any]:
    from scoresde.sampler import encode as along

    got = along(model.sde, model, x, solver=flow_solver(tolerance), cond=cond or None, check=check)
    nfe = got.solution.stats.get("nfe")
    found = {"z": got.z, "nfe": x.new_full((len(x),), got.solution.nfe) if nfe is None else nfe}
    if got.round_trip is not None:
        found["round_trip"] = got.round_trip
    return found | {_stored(name): value for name, value in cond.items()}


def _stored(name: str) -> str:
    """The array of a condition in a file of codes; only that of the labels has its own name."""
    return name if name == "label" else f"cond_{name}"


@final
@dataclass(frozen=True, kw_only=True)
class Decode:
    """Decode latent codes, by the probability flow from noise to data.

    A .npz file holds x in model units, and raw in the units of the training data: of images the
    levels of their pixels, of a table the values of its columns, whose names are columns. A .csv
    file holds raw. Beside the file a picture of the same name shows the first of the samples, if
    they are images or points in the plane. With another --label than that of the encoding, the
    codes become the same sample of another class, as far as the model sees one.
    """

    EXAMPLES: ClassVar[str] = """
scoresde decode runs/moons latents.npz --out back.npz
scoresde decode runs/digits latents.npz --label 3 --out threes.npz     (as another class)
scoresde decode runs/table latents.npz --out back.csv
"""

    model: Path = argument("MODEL")
    latents: Path = argument("LATENTS")
    """A .npz file with codes z, of `scoresde encode`."""
    out: Path = flag()
    """The .npz file, or a .csv table of vectors."""
    label: str | None = flag(None, metavar="CLASS")
    """Decode as this class, by name or number, or as several in turns, such as dog,cat. By default
    each code is decoded as the class it was encoded with; none takes no class."""
    tolerance: float = 1e-5
    batch_size: int = 256
    device: str | None = None
    calling: Calling = Calling()
    guiding: Guiding = Guiding()

    def run(self, call: Call) -> None:
        """Decode."""
        import numpy as np
        import torch

        from scoresde._tensor import batches
        from scoresde.sampler import decode

        place = _place(self.out, self.calling.overwrite, (".npz", ".csv"))
        opened = open_checkpoint(self.model, self.device)
        z, conds = _read(self.latents, opened)
        if place.suffix == ".csv" and z.ndim != 2:
            raise ValueError(
                "out: expected a .npz file for samples that are no vectors, got a .csv"
            )
        turns = opened.turns(self.label)
        labelled = turns is not None or ("label" in conds and self.label is None)
        names = [name for name in conds if name != "label"] + ["label"] * labelled
        model, parts, told = guided(opened, self.guiding, names), [], []
        with progress(len(z), "decode", self.calling.json) as bar:
            for rows, _ in batches(len(z), self.batch_size):
                part = torch.from_numpy(z[rows]).to(opened.device)
                cond = {name: torch.from_numpy(value[rows]) for name, value in conds.items()}
                if self.label is not None:
                    cond.pop("label", None)
                if turns is not None:
                    numbers = torch.arange(rows.start, rows.stop) % len(turns)
                    cond["label"] = torch.tensor(turns)[numbers]
                told += [cond["label"]] if "label" in cond else []
                cond = {name: value.to(opened.device) for name, value in cond.items()}
                solver = flow_solver(self.tolerance)
                made = decode(model.sde, model, part, solver=solver, cond=cond or None)
                parts.append(made.cpu())
                bar.update(len(part))
        whole = torch.cat(parts)
        arrays: dict[str, Any] = {"x": whole.numpy()}
        arrays |= raw_values(opened, whole)
        if told:
            arrays["label"] = torch.cat(told).numpy()
            arrays |= {"class_names": np.array(opened.class_names)} if opened.class_names else {}
        _save(place, arrays, opened)
        picture = _picture(whole, place, opened)
        result = {
            "out": str(place),
            "samples": len(whole),
            "shape": tuple(whole.shape[1:]),
            "picture": picture,
        }
        seen = f"\n{picture}: the first of them" if picture else ""
        emit(result, f"{len(whole)} samples in {place}{seen}", self.calling.json)


def raw_values(opened: Opened, x: Tensor) -> dict[str, Any]:
    """Samples (..., *D) in the units of the training data, as raw, and their columns."""
    import numpy as np

    data = opened.data
    if data is None or not (data.scaling or data.quantisation):
        return {}
    columns = data.scaling.columns if data.scaling else ()
    raw = data.decode(x.double()).numpy()
    return {"raw": raw, "columns": np.array(columns)} if columns else {"raw": raw}


def _picture(x: Any, place: Path, opened: Opened) -> str | None:
    """Draw the first samples beside the file; None if such samples have no picture."""
    if not is_first():
        return None
    file = place.with_suffix(".png")
    if not drawable(x.shape[1:]):
        file.unlink(missing_ok=True)  # of other samples, which were overwritten
        return None
    draw(x[: 2000 if x.ndim == 2 else 64], file, quantisation=opened.quantisation)
    return str(file)


def _read(latents: Path, opened: Opened) -> tuple[Any, dict[str, Any]]:  # arrays
    """Read codes (B, *D) and the conditions by name, and check that they fit the model."""
    import numpy as np

    from scoresde._check import fail, wrong_type

    told = "pass what `scoresde encode` wrote"
    arrays = read_npz("latents", latents, told)
    z, wanted = numbers_in(arrays, "z", "latents", told), opened.any_shape()
    if z.dtype.kind != "f":
        raise wrong_type("latents", "codes z of floats", z, told)
    shape = z.shape[1:]
    if len(shape) != len(wanted) or any(
        size not in (None, own) for size, own in zip(wanted, shape, strict=True)
    ):
        remedy = "pass codes of this model"
        raise fail("latents", f"codes of the shape {wanted} of a sample", z, remedy)
    bad = ~np.isfinite(z).reshape(len(z), -1).all(axis=1)
    if bad.any():
        got = f"NaN or infinity in row {int(bad.argmax())}"
        raise fail("latents", "finite codes z", got, told)
    taken = [n for n in arrays if n.startswith("cond_") or (n == "label" and opened.classes)]
    conds = {name: numbers_in(arrays, name, "latents", told) for name in taken}
    return z, {name.removeprefix("cond_"): value for name, value in conds.items()}


def _save(place: Path, arrays: Mapping[str, Any], opened: Opened) -> None:
    import numpy as np

    from scoresde.data.samples import csv_text

    if not is_first():
        return
    with replacing(place) as half:
        if place.suffix == ".npz":
            np.savez(half, **arrays)
        else:
            scaling = opened.data.scaling if opened.data is not None else None
            known = None if scaling is None else scaling.to_dict()
            half.write_text(csv_text(arrays, known), encoding="utf-8")


def _place(out: Path, overwrite: bool, endings: tuple[str, ...] = (".npz",)) -> Path:
    if out.suffix not in endings:
        listed = " or ".join(endings)
        raise ValueError(f"out: expected a name that ends in {listed}, got {str(out)!r}")
    check_file(out, overwrite)
    if endings != (".npz",):  # with a picture
        check_file(out.with_suffix(".png"), overwrite)
    return out
