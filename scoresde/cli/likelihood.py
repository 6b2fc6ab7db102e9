"""`scoresde likelihood`."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from scoresde._io import replacing
from scoresde.cli.common import (
    BatchSize,
    Device,
    Json,
    Model,
    Overwrite,
    Seed,
    check_file,
    emit,
    is_first,
    progress,
)
from scoresde.cli.config import ConfigFile
from scoresde.cli.opened import Opened, open_checkpoint
from scoresde.cli.samples import Holdout, Samples, Unconditional, open_samples
from scoresde.cli.source import DataOptions, Source

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EXAMPLES", "likelihood"]

EXAMPLES = """Examples:

scoresde likelihood runs/moons moons --limit 500

scoresde likelihood runs/digits digits --data-option split=test --limit 100

scoresde likelihood runs/digits digits --data-option split=test --bound --out bound.csv
"""


def _panel(help: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Estimate")


def likelihood(
    model: Model,
    data: Source,
    data_option: DataOptions = None,
    holdout: Holdout = 0.0,
    unconditional: Unconditional = False,
    limit: Annotated[
        int | None,
        typer.Option(
            help="This many samples, drawn at random by --seed; all of them by default.",
            metavar="N",
            rich_help_panel="Data",
        ),
    ] = None,
    bound: Annotated[
        bool, _panel("The variational bound (ELBO) in place of the flow's likelihood.", "--bound")
    ] = False,
    divergence: Annotated[
        str,
        _panel(
            "How the divergence of the flow is computed: hutchinson, exact (one product a "
            "dimension) or hutch++.",
            metavar="NAME",
        ),
    ] = "hutchinson",
    probes: Annotated[int, _panel("Random vectors of the divergence.", metavar="N")] = 1,
    draws: Annotated[
        int,
        _panel(
            "Draws of the dequantisation of discrete data (at least 5), or of the whole bound.",
            metavar="N",
        ),
    ] = 5,
    dequantise: Annotated[str, _panel("uniform or truncated_normal.", metavar="NAME")] = "uniform",
    times: Annotated[int, _panel("Times in each draw of the bound.", metavar="N")] = 128,
    t_end: Annotated[
        float | None, _panel("Where the flow begins; the SDE's t_min by default.", metavar="X")
    ] = None,
    tolerance: Annotated[
        float, _panel("Relative and absolute tolerance of the solver.", metavar="X")
    ] = 1e-5,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the value of every sample there: a .csv or .npz file.",
            metavar="FILE",
            rich_help_panel="This call",
        ),
    ] = None,
    device: Device = None,
    config: ConfigFile = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure how probable data are under a model: bits/dim, or nats, with standard errors.

    For discrete data (images with levels) it is a bound on the log probability of the levels along
    the probability flow, with uniform or variational dequantisation, in bits per dimension; for
    others the log density in nats, with its error budget: probes, solver, the noise left at t_end.
    With --bound it is the evidence lower bound of the generative SDE. The standard error says how
    well these samples stand for the data; the Monte-Carlo error is the share of the estimator.
    """
    place = None if out is None else _place(out, overwrite)
    opened = open_checkpoint(model, device)
    samples = open_samples(
        opened,
        data,
        data_option,
        limit=limit,
        seed=seed,
        holdout=holdout,
        unconditional=unconditional,
    )
    options = _Options(bound, divergence, probes, draws, dequantise, times, t_end, tolerance, seed)
    found = _Found(samples, options.kind(opened))
    with progress(len(samples), found.kind, as_json) as bar:
        for first, x, cond in samples.batches(batch_size):
            found.add(*options.measure(opened, x, cond or None, first))
            bar.update(len(x))
    result = found.summary()
    if place is not None:
        if is_first():
            with replacing(place) as half:
                found.write(half)
        result["out"] = str(place)
    emit(result, _text(result), as_json)


def _place(out: Path, overwrite: bool) -> Path:
    if out.suffix not in (".csv", ".npz"):
        raise ValueError(f"out: expected a name that ends in .csv or .npz, got {str(out)!r}")
    check_file(out, overwrite)
    return out


@final
@dataclass(frozen=True)
class _Options:
    """How the values are estimated."""

    bound: bool
    divergence: str
    probes: int
    draws: int
    dequantise: str
    times: int
    t_end: float | None
    tolerance: float
    seed: int

    def kind(self, opened: Opened) -> str:
        """What is estimated."""
        discrete = opened.quantisation is not None
        if self.bound:
            return "bound on the log probability" if discrete else "bound on the log density"
        return "log probability of the flow" if discrete else "log density of the flow"

    def measure(
        self, opened: Opened, x: Tensor, cond: Any, first: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Columns (B,) of the samples, and independent draws (S, B) of the log-likelihood."""
        if self.bound:
            return self._elbo(opened, x, cond, first)
        if opened.quantisation is not None:
            return self._discrete(opened, x, cond, first)
        from scoresde.likelihood import log_prob

        got = log_prob(
            opened.model,
            x,
            cond=cond,
            divergence=self.divergence,
            probes=self.probes,
            seed=self.seed,
            first=first,
            rtol=self.tolerance,
            atol=self.tolerance,
            t_end=self.t_end,
        )
        columns = {"solver_error": got.solver_error, "truncation": got.truncation}
        return {"nats": got.nats, **columns, "nfe": got.nfe}, got.draws

    def _discrete(
        self, opened: Opened, x: Tensor, cond: Any, first: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        from scoresde.likelihood import discrete_log_prob

        got = discrete_log_prob(
            opened.model,
            x,
            opened.quantisation,  # type: ignore[arg-type]  # not None here
            dequantise=self.dequantise,
            draws=self.draws,
            cond=cond,
            divergence=self.divergence,
            probes=self.probes,
            seed=self.seed,
            first=first,
            rtol=self.tolerance,
            atol=self.tolerance,
            t_end=self.t_end,
        )
        columns = {"bits_per_dim": got.bits_per_dim(), "solver_error": got.solver_error}
        return {"nats": got.nats, **columns, "nfe": got.nfe}, got.draws

    def _elbo(
        self, opened: Opened, x: Tensor, cond: Any, first: int
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
            seed=self.seed,
            first=first,
        )
        columns = {"nats": -got.nats, "prior": got.prior, "diffusion": got.diffusion}
        columns["reconstruction"] = got.reconstruction
        if quantisation is not None:
            columns["bits_per_dim"] = got.bits_per_dim(quantisation)
        columns["nfe"] = got.nats.new_full((len(x),), got.nfe)
        return columns, -got.draws


@final
@dataclass(eq=False)
class _Found:
    """The values of the samples, as they come."""

    samples: Samples
    kind: str
    columns: dict[str, list[Tensor]] = field(default_factory=dict)
    draws: list[Tensor] = field(default_factory=list)

    def add(self, columns: dict[str, Tensor], draws: Tensor) -> None:
        for name, value in columns.items():
            self.columns.setdefault(name, []).append(value.detach().double().cpu())
        self.draws.append(draws.detach().double().cpu())

    def whole(self) -> dict[str, Tensor]:
        """The columns of all samples, the number of each in the data set first."""
        import torch

        return {"row": self.samples.rows, **{k: torch.cat(v) for k, v in self.columns.items()}}

    def summary(self) -> dict[str, Any]:
        """Means with standard errors, over the samples that the solver did not stop."""
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
            if name in ("nats", "bits_per_dim"):
                scale = 1.0 if name == "nats" else 1 / (dim * math.log(2))
                spread = float(kept.std()) if n > 1 else math.nan  # of one sample unknown
                result[f"{name}_standard_error"] = spread / math.sqrt(max(n, 1))
                result[f"{name}_monte_carlo_error"] = float(noise) * scale
        result["nfe"] = float(columns["nfe"].double().mean())
        if self.samples.scaling is not None:
            shape = self.samples.data.x.shape[1:]
            shift = float(self.samples.scaling.std.expand(shape).log().sum())
            result["nats_in_units_of_the_table"] = result["nats"] - shift
        return result

    def write(self, place: Path) -> None:
        """The columns as a .csv or .npz file."""
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
        draws: independent for each sample.
        shared: but the samples share something in each draw, as the times of the bound.
    """
    count, n = draws.shape
    if count < 2:
        return math.nan
    spread = draws.mean(1).var(0) if shared else draws.var(0).mean() / n
    return float((spread / count).sqrt())


def _text(result: dict[str, Any]) -> str:
    lines = [f"{result['kind']}, {result['samples']} samples of {result['data'] or 'the data'}"]
    names = {"bits_per_dim": "bits/dim", "nats": "nats", "nats_in_units_of_the_table": "raw nats"}
    for name, title in names.items():
        if name in result:
            error, noise = (
                result.get(f"{name}_{kind}") for kind in ("standard_error", "monte_carlo_error")
            )
            known = error is not None and math.isfinite(error)
            tail = f" +- {error:.4f}" if known else ""
            if noise is not None and math.isfinite(noise):
                tail += f" (of it Monte Carlo {noise:.4f})"
            tail += " in the units of the data" if title == "raw nats" else ""
            lines.append(f"{title:12}{result[name]:.4f}{tail}")
    parts = ("solver_error", "truncation", "prior", "diffusion", "reconstruction")
    lines += [f"{n.replace('_', ' '):15} {result[n]:.3g} nats" for n in parts if n in result]
    lines.append(f"{'calls':15} {result['nfe']:.1f} of the network for a sample")
    if result["stopped"]:
        lines.append(f"{result['stopped']} samples were stopped by the solver and are left out")
    if "out" in result:
        lines.append(f"{result['out']}: the value of every sample")
    return "\n".join(lines)
