"""Findings about a model, and the report that holds them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from scoresde._check import choice, fail, path_of
from scoresde._html import Shown, rounded
from scoresde._io import write
from scoresde.doctor.page import page

__all__ = ["CONFIDENCE", "SEVERITIES", "Finding", "Report", "limit"]

SEVERITIES = ("error", "warning", "note")
"""From the worst: what makes samples wrong, what makes them worse, and what is good to know."""

CONFIDENCE = 0.01
"""The probability that a healthy model gets any false finding by chance."""

CHECKS = 18
"""The number of checks that share it, rounded up."""


def limit(tests: int) -> float:
    """The z-score beyond which one of `tests` numbers of a check is a finding, on both sides.

    By Bonferroni the checks share `CONFIDENCE`, and so do the numbers of a check: with normal
    z-scores, the probability of any false finding is at most 0.01.

    Example:
        >>> round(limit(1), 2), round(limit(768), 2)
        (3.45, 4.95)
    """
    from statistics import NormalDist

    return -NormalDist().inv_cdf(CONFIDENCE / (2 * CHECKS * max(1, tests)))


@final
@dataclass(frozen=True, kw_only=True)
class Finding(Shown):
    """One thing that is wrong with a model, its schedule or its data.

    Attributes:
        name: the check that it is from, such as "scale".
        severity: "error", "warning" or "note".
        number: what was measured.
        reference: what it is compared with: a bound, or the value that it should have.
        sentence: what is wrong, in one sentence.
        remedy: what to do about it, in one sentence.
        damage: by how much the fault raises the loss, in nats a dimension of the bound on the
            log-likelihood: the integral of the mean squared error of eps over the log-SNR. A
            mismatch of the prior and noise left at the end count in the same unit.
        share: the share of this finding in the damage of all of them.
        z: the distance of the number from the reference in standard errors; None if the number
            has none.
    """

    name: str
    severity: str
    number: float
    reference: float
    sentence: str
    remedy: str
    damage: float = 0.0
    share: float = 0.0
    z: float | None = None

    def __post_init__(self) -> None:
        choice("severity", self.severity, SEVERITIES)

    @property
    def facts(self) -> dict[str, object]:
        """What was found and what to do, name -> value, for a table."""
        return {
            "finding": str(self),
            "remedy": self.remedy,
            "number": rounded(self.number),
            "compared with": rounded(self.reference),
            "standard errors away": None if self.z is None else rounded(self.z),
        }

    def __str__(self) -> str:
        explained = f" ({100 * self.share:.0f} % of the damage)" if self.share > 0 else ""
        return f"{self.severity}: {self.name}{explained}: {self.sentence}"


@final
@dataclass(frozen=True, kw_only=True, repr=False)
class Report(Shown):
    """What `diagnose` found, the most damaging first.

    Attributes:
        findings: errors and warnings by the damage that they explain, then notes.
        checks: the names of all checks that were made.
        skipped: name of a check -> why it was not made.
        levels: one row for each noise level, with `t`, `log_snr`, the `loss` (mean squared error
            of eps over the dimensions), that of the `gaussian` with the covariance of the data and
            of the best `reference`, the `slope` of eps on its prediction and its `slope_error`,
            and the `length`, the mean of |sigma score|^2 / D.
        loss: the integral of the loss over the log-SNR, in nats a dimension.
        gaussian: the same for the Gaussian with the covariance of the data.
        reference: the same for the best reference: the Gaussian, a kernel estimate of the density,
            or the model with a fault removed.
        about: the facts of the examination as plain values.
    """

    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    skipped: Mapping[str, str]
    levels: tuple[Mapping[str, float], ...]
    loss: float
    gaussian: float
    reference: float
    about: Mapping[str, Any] = field(default_factory=dict)  # plain values

    @property
    def healthy(self) -> bool:
        """Whether there is no error and no warning."""
        return all(finding.severity == "note" for finding in self.findings)

    @property
    def first(self) -> Finding | None:
        """The finding that explains most of the damage; None for a healthy model."""
        return next((f for f in self.findings if f.severity != "note"), None)

    @property
    def facts(self) -> dict[str, object]:
        """The verdict, the findings and the loss, name -> value, for a table."""
        return {
            "verdict": self.verdict,
            **{f"{k}. {f.name}": f"{f} {f.remedy}" for k, f in enumerate(self.findings, 1)},
            "loss, nats a dimension": rounded(self.loss),
            "of a Gaussian": rounded(self.gaussian),
            "of the best reference": rounded(self.reference),
            "checks": f"{len(self.checks)} made, {len(self.skipped)} not made",
        }

    def __repr__(self) -> str:
        losses = f"loss={self.loss:.3f}, reference={self.reference:.3f}"
        return f"Report({self.verdict!r}, {len(self.checks)} checks, {losses})"

    def __getitem__(self, name: str) -> Finding:
        """The finding of a name.

        Raises:
            KeyError: there is none.
        """
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return any(finding.name == name for finding in self.findings)

    def __str__(self) -> str:
        """The report as text for people."""
        lines = [self.verdict]
        for number, finding in enumerate(self.findings, 1):
            lines += ["", f"{number}. {finding}", f"   {finding.remedy}"]
        lines += ["", f"loss {self.loss:.3f}, of a Gaussian {self.gaussian:.3f}, of the best "]
        lines[-1] += f"reference {self.reference:.3f} nats a dimension"
        lines.append(f"{len(self.checks)} checks: {', '.join(self.checks)}")
        lines += [f"not made: {name}: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """What was found, in a line."""
        serious = [f for f in self.findings if f.severity != "note"]
        if not serious:
            return "Nothing is wrong that these checks can see."
        first = serious[0]
        more = f", and {len(serious) - 1} more" if len(serious) > 1 else ""
        return f"{len(serious)} finding{'s' * (len(serious) > 1)}: {first.name}{more}"

    def html(self, path: str | os.PathLike[str], *, title: str = "Examination of a model") -> Path:
        """Write the report as one HTML file with embedded figures, atomically.

        Args:
            path: the file, ending in .html; folders are created.
            title: the title of the page.

        Raises:
            ValueError: the suffix is not .html.
            ImportError: matplotlib is not installed.
        """
        place = path_of("path", path)
        if place.suffix != ".html":
            raise fail("path", "a file that ends in .html", str(path), "add the ending")
        write(place, page(self, title).encode())
        return place

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values of JSON; numbers that are not finite become None."""
        made = asdict(self) | {"healthy": self.healthy}
        return _plain(made)  # type: ignore[no-any-return]

    def to_json(self) -> str:
        """The report as text of JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:  # of any plain kind
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
