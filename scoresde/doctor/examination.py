"""All checks of one model, and the order of what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from scoresde._progress import Progress
from scoresde.cond import Cond
from scoresde.doctor.average import average_repairs, buffer_findings
from scoresde.doctor.blind import blind_repairs
from scoresde.doctor.convention import convention_repairs
from scoresde.doctor.coordinate import coordinate_repairs
from scoresde.doctor.end import end_findings
from scoresde.doctor.finding import SEVERITIES, Finding, Report
from scoresde.doctor.fit import fit_findings, untrained
from scoresde.doctor.labels import label_findings, label_repairs, relation
from scoresde.doctor.length import length_findings, lengths
from scoresde.doctor.memory import memory_findings
from scoresde.doctor.precision import precision_notes, precision_repairs
from scoresde.doctor.prior import prior_findings
from scoresde.doctor.probe import Probe, mean_error, probe_of
from scoresde.doctor.randomness import randomness_findings, randomness_repairs
from scoresde.doctor.reference import LinearDenoiser, kernel_eps
from scoresde.doctor.repair import Repair, best_of
from scoresde.doctor.roughness import LARGEST, roughness_notes
from scoresde.doctor.scale import scale_repairs, slopes
from scoresde.doctor.sign import sign_repairs
from scoresde.doctor.stein import stein_findings, stein_repairs
from scoresde.doctor.units import (
    DataFacts,
    constant_findings,
    copies_findings,
    units_finding,
)
from scoresde.model import ScoreModel

__all__ = ["Examination"]

CHECKS = (
    "sign",
    "scale",
    "coordinate",
    "time",
    "dropout",
    "labels",
    "average",
    "precision",
    "memory",
    "roughness",
    "units",
    "constant",
    "copies",
    "prior",
    "t_end",
    "stein_mean",
    "stein_pull",
    "length",
    "fit",
)


CLEARLY = 2.0
"""A broken identity is the fault itself if it explains so many times what any repair does."""


@final
@dataclass(frozen=True, eq=False)
class References:
    """The losses of denoisers that need no training, at the levels of a probe, (K, n) each.

    Attributes:
        linear: the best linear denoiser.
        start: the losses of the isotropic Gaussian with the mean and deviation of the data.
        gaussian: those of the linear denoiser.
        best: at each level those of the better one of the linear denoiser and a kernel estimate.
    """

    linear: LinearDenoiser
    start: Tensor
    gaussian: Tensor
    best: Tensor

    @classmethod
    def of(cls, probe: Probe) -> References:
        linear = LinearDenoiser.fit(probe.others)
        plain = LinearDenoiser.isotropic(probe.others)
        start, gaussian = (
            probe.loss([denoiser.eps(level) for level in probe.levels])
            for denoiser in (plain, linear)
        )
        kernel = probe.loss(kernel_eps(probe))
        better = (kernel.mean(1) < gaussian.mean(1))[:, None]
        return cls(linear, start, gaussian, torch.where(better, kernel, gaussian))


@final
@dataclass(frozen=True, eq=False)
class Case:
    """Predictions that are examined: a probe, the references there, and predicted noise."""

    probe: Probe
    known: References
    eps: Sequence[Tensor]

    @property
    def losses(self) -> Tensor:
        """The losses of the predicted noise, (K, n)."""
        return self.probe.loss(self.eps)

    def findings(self) -> tuple[list[Finding], list[Finding]]:
        """What is wrong with the predictions and no repair removes: the fit, and symptoms."""
        known = self.known
        fit = fit_findings(self.probe, self.losses, known.start, known.gaussian, known.best)
        stein = stein_findings(self.probe, self.eps)
        return fit, [*stein, *length_findings(self.probe, known.linear, self.eps)]


REPAIRS: tuple[Callable[[Probe, ScoreModel | None], Iterable[Repair]], ...] = (
    lambda probe, raw: randomness_repairs(probe),
    lambda probe, raw: precision_repairs(probe),
    average_repairs,
    lambda probe, raw: sign_repairs(probe),
    lambda probe, raw: coordinate_repairs(probe),
    lambda probe, raw: label_repairs(probe),
    lambda probe, raw: scale_repairs(probe),
    lambda probe, raw: convention_repairs(probe),
    lambda probe, raw: blind_repairs(probe),
)
"""The repairs that are tried; of those that save as much the first is named, so facts stand before
fits."""

STAGES = len(REPAIRS) + 4
"""The number of parts of an examination, for its progress."""


@final
@dataclass(frozen=True, eq=False)
class Examination:
    """The checks of one model.

    Attributes:
        probe: the noised data with the predictions of the model.
        facts: those of the data.
        x, cond: all data.
        raw: the model with its raw weights, or None.
        held_out: held-out data with their conditions, or None.
        bar: shows the progress, of `STAGES` checks.
    """

    probe: Probe
    facts: DataFacts
    x: Tensor
    cond: Cond
    raw: ScoreModel | None
    held_out: tuple[Tensor, Cond] | None = None
    bar: Progress | None = None

    def report(self) -> Report:
        """Make all checks and order what they find."""
        probe = self.probe
        alone = [*constant_findings(self.facts, tuple(self.x.shape[1:]))]
        if self.facts.std == 0.0:
            return self._report(alone, None)
        if not all(bool(value.isfinite().all()) for value in probe.eps):
            return self._report([*alone, self._not_finite()], None)
        given = Case(probe, References.of(probe), probe.eps)
        repaired, repair = self._repaired(given)
        fit, symptoms = repaired.findings()
        if repair is not None and repair.name != "units" and untrained(fit):
            # What helps a network that has learned nothing is no fault of the way it is read.
            repaired, repair = given, None
            fit, symptoms = given.findings()
        found = [*alone, *copies_findings(self.facts)]
        if repair is None:
            found += [*self._labels(), *randomness_findings(probe)]
            self._advance()
            found += [*buffer_findings(probe, self.raw), *precision_notes(probe)]
            self._advance()
            found += roughness_notes(probe)
            self._advance()
            if self.held_out is not None:
                found += memory_findings(probe, self.x, *self.held_out)
            self._advance()
        else:
            before = [finding for part in given.findings() for finding in part]
            left = {finding.name for finding in (*fit, *symptoms)}
            found.append(repair.finding())
            removed = [f for f in before if f.name not in {*left, repair.name}]
            found += [_explained(finding, repair.name) for finding in removed]
        if fit or repair is not None:
            by = repair.name if repair is not None else fit[0].name
            symptoms = [_explained(f, by) for f in symptoms]
        return self._report([*found, *self._schedule(repaired, [*fit, *symptoms])], given)

    def _advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def _repaired(self, given: Case) -> tuple[Case, Repair | None]:
        """The case without the fault that explains most, and its repair."""
        probe = self.probe
        repairs: list[Repair] = []
        for repairs_of in REPAIRS:
            repairs += repairs_of(probe, self.raw)
            self._advance()
        changed = None
        if self.facts.doubtful:
            changed, units = self._in_units(given)
            repairs = [units, *repairs]
        best = best_of(repairs)
        identity = best_of(stein_repairs(probe))
        if identity is not None:
            most = 0.0 if best is None else best.gain.mean
            case = Case(probe, given.known, identity.eps)
            if identity.gain.mean > CLEARLY * most and not case.findings()[0]:
                return case, identity
        if best is None:
            return given, None
        if changed is not None and best.name == "units":
            return changed, best
        return Case(probe, given.known, best.eps), best

    def _in_units(self, given: Case) -> tuple[Case, Repair]:
        """The case with the data in the units of the model, and what that saves.

        Data in other units have another least loss, so losses are compared by their excess over
        the Gaussian with the covariance of the data.
        """
        one, facts = self.probe, self.facts
        x = facts.changed(self.x)
        other = probe_of(
            one.model,
            x,
            self.cond,
            one.t_end,
            rows=len(one.x0),
            count=len(one.levels),
            seed=one.seed,
            batch_size=one.batch_size,
        )
        case = Case(other, References.of(other), other.eps)
        before = one.nats(given.losses - given.known.gaussian)
        after = one.nats(case.losses - case.known.gaussian)
        finding = units_finding(facts)
        repair = Repair(
            name=finding.name,
            number=finding.number,
            reference=finding.reference,
            sentence=finding.sentence,
            remedy=finding.remedy,
            gain=mean_error(before - after),
            eps=other.eps,
        )
        return case, repair

    def _schedule(self, case: Case, rest: list[Finding]) -> list[Finding]:
        """Findings about the ends of the schedule, and `rest`; wide data explain them.

        A model may have been trained on data of another size than its schedule is made for. That
        alone is no fault; if anything is wrong, it is the likely cause.
        """
        facts, probe = self.facts, self.probe
        linear, last = case.known.linear, probe.levels[-1].node
        at_end = linear.expected(probe.sde.at(probe.t_end)) / linear.expected(last)
        least = at_end * float(torch.minimum(case.losses[-1].mean(), case.known.best[-1].mean()))
        wide = not facts.standardised
        mean, std = facts.wanted if wide and facts.wanted else (0.0, 1.0)
        size = (mean**2 + std**2) ** 0.5 if wide else facts.size
        found = [
            *prior_findings(probe, size),
            *end_findings(probe, least, std if wide else facts.std),
        ]
        if facts.far and [*found, *rest]:
            all_of_them = [*found, *rest]
            units = units_finding(replace(facts, wanted=(0.0, 1.0), known=False))
            units = replace(units, damage=sum(finding.damage for finding in all_of_them))
            return [units, *(replace(finding, severity="note") for finding in all_of_them)]
        if not wide or facts.known:
            return [*found, *rest]
        ends = [*prior_findings(probe, facts.size), *end_findings(probe, least, facts.std)]
        damage = sum(f.damage for f in [*ends, *rest]) - sum(f.damage for f in found)
        units = replace(units_finding(facts), damage=max(0.0, damage))
        return [units, *found, *(replace(finding, severity="note") for finding in rest)]

    def _labels(self) -> list[Finding]:
        cond = self.cond or {}
        label = cond.get("label")
        related = None
        if label is not None and label.ndim == 1 and bool((label != label[0]).any()):
            related = relation(self.probe, self.x, label)
        return label_findings(self.probe, related)

    def _not_finite(self) -> Finding:
        bad = [
            level.node.t
            for level, value in zip(self.probe.levels, self.probe.eps, strict=True)
            if not bool(value.isfinite().all())
        ]
        return Finding(
            name="not_finite",
            severity="error",
            number=float(len(bad)),
            reference=0.0,
            sentence=f"The model returns NaN or infinity, first at t = {bad[0]:.3g}.",
            remedy="Check its weights, divisions by sigma or alpha, and half precision.",
            damage=float("inf"),
        )

    def _report(self, found: list[Finding], given: Case | None) -> Report:
        total = sum(f.damage for f in found if f.severity != "note")
        shared = [
            replace(f, share=f.damage / total) if f.severity != "note" and total > 0.0 else f
            for f in found
        ]
        notes = SEVERITIES.index("note")
        shared.sort(key=lambda f: (SEVERITIES.index(f.severity) == notes, -f.damage))
        probe = self.probe
        about = {
            "sde": repr(probe.sde),
            "model": type(probe.model).__name__,
            "data": len(self.x),
            "shape": list(self.x.shape[1:]),
            "rows": len(probe.x0),
            "levels": len(probe.levels),
            "t_end": probe.t_end,
            "data mean": self.facts.mean,
            "data std": self.facts.std,
        }
        if given is None:
            nan = float("nan")
            return Report(
                findings=tuple(shared),
                checks=("constant",),
                skipped={},
                levels=(),
                loss=nan,
                gaussian=nan,
                reference=nan,
                about=about,
            )
        sums = [float(probe.nats(v).mean()) for v in (given.losses, given.known.gaussian)]
        least = float(probe.nats(given.known.best).mean())
        return Report(
            findings=tuple(shared),
            checks=CHECKS,
            skipped=self._skipped(),
            levels=tuple(self._rows(given)),
            loss=sums[0],
            gaussian=sums[1],
            reference=least,
            about=about,
        )

    def _skipped(self) -> dict[str, str]:
        found = {}
        if self.raw is None:
            found["average"] = "the raw weights were not given"
        if self.probe.dim > LARGEST:
            found["roughness"] = f"a sample has more than {LARGEST} values"
        if self.held_out is None:
            found["memory"] = "no held-out data were given"
        if not self.cond:
            found["labels"] = "there are no conditions"
        return found

    def _rows(self, given: Case) -> list[dict[str, float]]:
        probe = self.probe
        slope, slope_error = slopes(probe)
        length, _ = lengths(probe, probe.eps)
        return [
            {
                "t": level.node.t,
                "log_snr": level.node.log_snr,
                "loss": float(given.losses[k].mean()),
                "gaussian": float(given.known.gaussian[k].mean()),
                "reference": float(given.known.best[k].mean()),
                "slope": float(slope[k]),
                "slope_error": float(slope_error[k]),
                "length": float(length[k]),
            }
            for k, level in enumerate(probe.levels)
        ]


def _explained(finding: Finding, by: str) -> Finding:
    """A finding that another one explains, as a note."""
    sentence = f"{finding.sentence} It is a consequence of {by!r}."
    return replace(finding, severity="note", sentence=sentence, damage=0.0)
