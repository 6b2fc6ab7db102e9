"""`scoresde likelihood`."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from scoresde._io import replacing
from scoresde.cli.common import check_file, emit, is_first, progress, watched
from scoresde.cli.config import Call
from scoresde.cli.flags import Calling, argument
from scoresde.cli.opened import Opened, open_checkpoint
from scoresde.cli.samples import Samples, open_samples
from scoresde.options import Divergence, Tolerances

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde._progress import Progress

__all__ = ["Likelihood"]


@final
@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimation options."""

    bound: bool = False
    """Estimate the variational bound (ELBO) in place of the likelihood of the flow."""
    divergence: str = Divergence.kind
    """How the divergence of the flow is computed: hutchinson, exact (one product a dimension) or
    hutch++."""
    probes: int = Divergence.probes
    """The number of random vectors of the divergence."""
    draws: int = 5
    """The number of draws of the dequantisation of discrete data (at least 5), or of the whole
    bound."""
    dequantise: str = "uniform"
    """The dequantisation: uniform or truncated_normal."""
    times: int = 128
    """The number of times in each draw of the bound."""
    t_end: float | None = None
    """The time at which the flow begins, or the bound ends. By default it is t_min of the SDE, and
    for the bound of discrete data the time at which the noise is a share of their levels."""
    tolerance: float = Tolerances.rtol

    def kind(self, opened: Opened) -> str:
        """The name of the estimate."""
        discrete = opened.quantisation is not None
        if self.bound:
            return "bound on the log probability" if discrete else "bound on the log density"
        return "log probability of the flow" if discrete else "log density of the flow"

    def parts(self, opened: Opened) -> int:
        """The number of draws of each sample, by which its progress is counted."""
        return self.draws if self.bound or opened.quantisation is not None else 1

    def measure(
        self, opened: Opened, x: Tensor, cond: Any, first: int, seed: int, bar: Progress | bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Columns (B,) of the samples, and independent draws (S, B) of the log-likelihood.

        The bar is advanced by one for each sample and draw.
        """
        if self.bound:
            return self._elbo(opened, x, cond, first, seed, bar)
        if opened.quantisation is not None:
            return self._discrete(opened, x, cond, first, seed, bar)
        from scoresde.likelihood import log_prob

        got = log_prob(
            opened.model,
            x,
            cond=cond,
            divergence=Divergence(self.divergence, probes=self.probes),
            seed=seed,
            first=first,
            tolerances=Tolerances(self.tolerance, self.tolerance),
            t_end=self.t_end,
            progress=bar,
        )
        columns = {"solver_error": got.solver_error, "truncation": got.truncation}
        return {"nats": got.nats, **columns, "nfe": got.nfe}, got.draws

    def _discrete(
        self, opened: Opened, x: Tensor, cond: Any, first: int, seed: int, bar: Progress | bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        from scoresde.likelihood import discrete_log_prob

        got = discrete_log_prob(
            opened.model,
            x,
            opened.quantisation,  # type: ignore[arg-type]  # not None here
            dequantise=self.dequantise,
            draws=self.draws,
            cond=cond,
            divergence=Divergence(self.divergence, probes=self.probes),
            seed=seed,
            first=first,
            tolerances=Tolerances(self.tolerance, self.tolerance),
            t_end=self.t_end,
            progress=bar,
        )
        columns = {"bits_per_dim": got.bits_per_dim(), "solver_error": got.solver_error}
        return {"nats": got.nats, **columns, "nfe": got.nfe}, got.draws

    def _elbo(
        self, opened: Opened, x: Tensor, cond: Any, first: int, seed: int, bar: Progress | bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        from scoresde.likelihood.bound import elbo

        quantisation = opened.quantisation
        got = elbo(
            opened.model,
            x,
            quantisation=quantisation,
            decoder="gaussian" if quantisation is None else "bins",
            steps=self.times,
            samples=self.draws,
            t_end=self.t_end,
            cond=cond,
            seed=seed,
            first=first,
            progress=bar,
        )
        columns = {"nats": -got.nats, "prior": got.prior, "diffusion": got.diffusion}
        columns["reconstruction"] = got.reconstruction
        if quantisation is not None:
            columns["bits_per_dim"] = got.bits_per_dim(quantisation)
        columns["nfe"] = got.nats.new_full((len(x),), got.nfe)
        return columns, -got.draws


@final
@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Measure how probable data are under a model: bits/dim, or nats, with standard errors.

    For discrete data (images with levels) it is a bound on the log probability of the levels along
    the probability flow, with uniform or variational dequantisation, in bits per dimension; for
    others the log density in nats, with its error budget: probes, solver, the noise left at t_end.
    With --bound it is the evidence lower bound of the generative SDE. The standard error says how
    well these samples stand for the data; the Monte-Carlo error is the share of the estimator.
    """

    EXAMPLES: ClassVar[str] = """
scoresde likelihood runs/moons moons --limit 500
scoresde likelihood runs/digits digits --data-option split=test --limit 100
scoresde likelihood runs/digits digits --data-option split=test --bound --out bound.csv
"""

    model: Path = argument("MODEL")
    data: str = argument("DATA")
    data_option: list[str] = field(default_factory=list)
    holdout: float = 0.0
    unconditional: bool = False
    limit: int | None = None
    batch_size: int = 256
    seed: int = 0
    out: Path | None = None
    """Write the value of every sample into this .csv or .npz file."""
    device: str | None = None
    calling: Calling = Calling()
    estimate: Estimate = Estimate()

    def run(self, call: Call) -> None:
        """Measure."""
        place = None if self.out is None else _place(self.out, self.calling.overwrite)
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
        found = _Values(samples, self.estimate.kind(opened))
        parts, json = self.estimate.parts(opened), self.calling.json
        unit = "samples" if parts == 1 else "draws"
        with progress(parts * len(samples), found.kind, json, unit) as bar:
            shown = watched(json) and bar
            for first, x, cond in samples.batches(self.batch_size):
                values = self.estimate.measure(opened, x, cond or None, first, self.seed, shown)
                found.add(x, *values)
        result = found.summary()
        if place is not None:
            if is_first():
                with replacing(place) as half:
                    found.write(half)
            result["out"] = str(place)
        emit(result, _text(result), self.calling.json)


UNITS = "nats_in_units_of_the_table"
"""The column of values in the units of the data, which have a scaling."""


def _place(out: Path, overwrite: bool) -> Path:
    if out.suffix not in (".csv", ".npz"):
        raise ValueError(f"out: expected a name that ends in .csv or .npz, got {str(out)!r}")
    check_file(out, overwrite)
    return out


@final
@dataclass(eq=False)
class _Values:
    """The values of the samples, collected batch by batch."""

    samples: Samples
    kind: str
    columns: dict[str, list[Tensor]] = field(default_factory=dict)
    draws: list[Tensor] = field(default_factory=list)

    @property
    def no_density(self) -> str | None:
        """Why there is no density in the units of the data, or None."""
        return getattr(self.samples.scaling, "density_fault", None)

    def add(self, x: Tensor, columns: dict[str, Tensor], draws: Tensor) -> None:
        scaling = self.samples.scaling
        if scaling is not None and self.no_density is None:
            shift = scaling.log_abs_det(x.detach().double().cpu())
            columns = {**columns, UNITS: columns["nats"].detach().double().cpu() + shift}
        for name, value in columns.items():
            self.columns.setdefault(name, []).append(value.detach().double().cpu())
        self.draws.append(draws.detach().double().cpu())

    def whole(self) -> dict[str, Tensor]:
        """The columns of all samples, the number of each in the data set first."""
        import torch

        return {"row": self.samples.rows, **{k: torch.cat(v) for k, v in self.columns.items()}}

    def summary(self) -> dict[str, Any]:
        """The means and standard errors over the samples that the solver did not stop."""
        import torch

        columns = self.whole()
        good = columns["nats"].isfinite()
        n, dim = int(good.sum()), math.prod(self.samples.data.x.shape[1:])
        draws = torch.cat(self.draws, 1)[:, good]
        noise = _monte_carlo_error(draws, shared="bound" in self.kind)
        result: dict[str, Any] = {
            "kind": self.kind,
            "data": self.samples.data.name,
            "samples": len(good),
            "stopped": len(good) - n,
            "dim": dim,
        }
        for name, value in columns.items():
            if name in ("row", "nfe"):
                continue
            kept = value[good]
            result[name] = float(kept.mean())
            if name in ("nats", "bits_per_dim", UNITS):
                scale = 1 / (dim * math.log(2)) if name == "bits_per_dim" else 1.0
                spread = float(kept.std()) if n > 1 else math.nan  # unknown for one sample
                result[f"{name}_standard_error"] = spread / math.sqrt(max(n, 1))
                result[f"{name}_monte_carlo_error"] = float(noise) * scale
        result["nfe"] = float(columns["nfe"].double().mean())
        if self.no_density is not None:
            result["no_density"] = self.no_density
        return result

    def write(self, place: Path) -> None:
        """Write the columns as a .csv or .npz file."""
        columns = {name: value.numpy() for name, value in self.whole().items()}
        if place.suffix == ".npz":
            import numpy as np

            np.savez(place, **columns)  # type: ignore[arg-type]  # names of arrays
            return
        with place.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*(value.tolist() for value in columns.values()), strict=True))


def _monte_carlo_error(draws: Tensor, shared: bool) -> float:
    """The Monte-Carlo error of the mean over draws (S, B) of B samples; NaN for a single draw.

    Args:
        draws: independent draws for each sample.
        shared: whether the samples of a draw share random numbers, such as the times of the bound.
    """
    count, n = draws.shape
    if count < 2:
        return math.nan
    spread = draws.mean(1).var(0) if shared else draws.var(0).mean() / n
    return float((spread / count).sqrt())


def _text(result: dict[str, Any]) -> str:
    lines = [f"{result['kind']}, {result['samples']} samples of {result['data'] or 'the data'}"]
    names = {"bits_per_dim": "bits/dim", "nats": "nats", UNITS: "raw nats"}
    for name, title in names.items():
        if name in result:
            error, noise = (
                result.get(f"{name}_{kind}") for kind in ("standard_error", "monte_carlo_error")
            )
            known = error is not None and math.isfinite(error)
            tail = f" +- {error:.4f}" if known else ""
            if noise is not None and math.isfinite(noise):
                part = known and noise <= error  # of few samples the error itself is rough
                tail += f" ({'of it ' if part else ''}Monte Carlo {noise:.4f})"
            tail += " in the units of the data" if title == "raw nats" else ""
            lines.append(f"{title:12}{result[name]:.4f}{tail}")
    if "no_density" in result:
        lines.append(f"{'raw nats':12}none: {result['no_density']}, so rows have no density")
    if "solver_error" in result:
        error = f"up to about {result['solver_error']:.3g} nats a sample"
        if "bits_per_dim" in result:
            error += f", {result['solver_error'] / (result['dim'] * math.log(2)):.2g} bits/dim"
        lines.append(f"{'solver error':15} {error}, not in the +-")
    if "truncation" in result:
        lines.append(f"{'truncation':15} {result['truncation']:.3g} nats a sample, not in the +-")
    parts = ("prior", "diffusion", "reconstruction")
    lines += [f"{name:15} {result[name]:.3g} nats" for name in parts if name in result]
    lines.append(f"{'calls':15} {result['nfe']:.1f} of the network for a sample")
    if result["stopped"]:
        lines.append(f"{result['stopped']} samples were stopped by the solver and are left out")
    if "out" in result:
        lines.append(f"{result['out']}: the value of every sample")
    return "\n".join(lines)
