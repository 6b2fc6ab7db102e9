"""The automatic choice of a posterior method, from a measured table."""

from __future__ import annotations

import math
from typing import NamedTuple

from scoresde._check import choice, refuse
from scoresde.measurement import Identity, Mask, Measurement

__all__ = [
    "BIAS",
    "CALLS",
    "CURVED",
    "LEAST_PARTICLES",
    "METHODS",
    "TWISTED_STEPS",
    "Choice",
    "choose",
]

METHODS = ("auto", "twisted", "mmps", "pigdm", "tmpd", "ddrm", "dps", "daps", "ddnm", "repaint")
"""The names of methods that `posterior` takes."""

BIAS: dict[str, tuple[float, float]] = {
    "exact score": (0.87, 1.1),
    "twisted, K = 256": (1.5, 5.9),
    "twisted, K = 1000": (1.2, 4.0),
    "mmps": (2.7, 27.0),
    "pigdm": (2.6, 58.0),
    "tmpd": (6.2, 100000.0),
    "ddrm": (11.0, 120.0),
    "dps": (13.0, 130.0),
    "daps": (2.1, 85.0),
}
"""Method -> the least and largest distance from exact samples, over that of two exact sets.

The means over kinds of problems in benchmarks/results/posterior_choice.md, which
`python benchmarks/posterior_choice.py` measures: 1 is exact.
"""

CURVED: dict[str, tuple[float, float]] = {
    "dps": (1.3, math.inf),
    "daps": (0.75, 7.4),
    "twisted": (0.84, math.inf),
}
"""The same for measurements that are not linear with Gaussian noise, with the calls of "auto".

The least and largest of the problems in benchmarks/results/posterior_curved.md, which
`python benchmarks/posterior_curved.py` measures; infinity is a run that diverged.
"""

LEAST_PARTICLES = 256
"""The number of particles from which the twisted sampler is taken.

With 1,000 it was the closest on all problems in 64 and 80 dimensions, with 256 on all but one.
"""

TWISTED_STEPS = 100
"""The steps of the twisted sampler."""

CALLS = 400
"""The default of network calls and vector-Jacobian products for each sample."""

_MOST_STEPS = 100
"""The steps of score models and of "auto" at most; more do not reduce the bias of the former."""

_LEAST_STEPS = 25
"""The steps of score models at least, with which the solver's error is below their bias."""

_MOST_SOLVE = 20
"""The products of a call of MMPS with many numbers, about."""

_WIDE = 100
"""The size of a sample up to which particles bear a measurement of more than `_FEW` numbers."""

_FEW = 16
"""The numbers of a measurement up to which the twist takes a product for each."""

_UNKNOWN = "'daps', which is closer for such measurements, needs a model that knows its data"

_PRODUCTS = {
    "pigdm": 1,
    "tmpd": 2,
    "ddrm": 0,
    "dps": 1,
    "daps": 0,
    "ddnm": 0,
    "repaint": 0,
}
"""The vector-Jacobian products of a call, but for MMPS, which depend on the numbers of y."""

_KNOWN = {
    "mmps": "exact for Gaussian data",
    "pigdm": "exact for independent values of one variance",
    "tmpd": "exact for independent values of which some are measured",
    "ddrm": "biased even for Gaussian data",
    "dps": "biased even for Gaussian data, and too narrow",
    "daps": "exact for independent values of one variance, and closer for others with more steps",
    "ddnm": "biased even for Gaussian data: y holds, and the rest hardly knows of it",
    "repaint": "biased even for Gaussian data: y holds, and the rest knows of it in part",
}


class Choice(NamedTuple):
    """A method with its settings.

    Attributes:
        method: the name.
        steps: the steps of the solver.
        particles: the particles of the twisted sampler, 0 for other methods.
        twist: the twist of the twisted sampler.
        why: the reason for the choice, a sentence.
    """

    method: str
    steps: int
    particles: int
    twist: str
    why: str


def choose(
    measurement: Measurement,
    count: int,
    size: int,
    n: int,
    *,
    method: str = "auto",
    calls: int = CALLS,
    steps: int | None = None,
    variance_known: bool = True,
    same_entries: bool = True,
) -> Choice:
    """The method for a measurement, and what it can afford.

    Args:
        measurement: the measurement.
        count: the numbers in one y.
        size: the numbers in one sample.
        n: the samples of each posterior.
        method: a name of `METHODS`.
        calls: the network calls and vector-Jacobian products for each sample.
        steps: the steps of the solver, if they are given.
        variance_known: whether the model knows the variance of its data.
        same_entries: whether the same numbers are missing in all y, as the twist "variance" wants.

    Raises:
        ValueError: the name is unknown, or noise of 0 has no method for this operator.
    """
    choice("method", method, METHODS)
    gaussian = measurement.linear and measurement.gaussian
    exact = measurement.exact
    twist, products = "point", 1
    if gaussian and not exact:
        few = count <= _FEW or not (variance_known and same_entries)
        twist, products = ("jacobian", count) if few else ("variance", 1)
    made = steps or TWISTED_STEPS
    particles = n * calls // (made * (1 + products))
    why, short = "as it was asked for", method not in ("repaint", "daps")  # more steps help these
    if method == "auto":
        wide = count > _FEW and size > _WIDE
        method, why = _best(measurement, particles, exact, gaussian, wide, variance_known)
        short = method != "repaint"
    if method == "twisted":
        return Choice(method, made, max(particles, 2), twist, why)
    each = _PRODUCTS.get(method, min(count + 1, _MOST_SOLVE))
    own = steps or max(calls // (1 + each), _LEAST_STEPS)
    if steps is None and short:
        own = min(own, _MOST_STEPS)
    return Choice(method, own, 0, "", why)


def _best(
    measurement: Measurement,
    particles: int,
    exact: bool,
    gaussian: bool,
    wide: bool,
    variance_known: bool,
) -> tuple[str, str]:
    """The method of "auto", and why."""
    if exact:
        operator = measurement.operator
        if isinstance(operator, Identity | Mask):
            return "repaint", "the measurement is without noise and selects entries"
        if measurement.linear and measurement.need_linear("auto").decomposable:
            return "ddnm", "the measurement is without noise, and its singular values are known"
        remedy = "pass the noise of the instrument; a small one will do"
        raise refuse("noise", "noise above 0 for this operator", repr(measurement.noise), remedy)
    if not gaussian and variance_known:
        return "daps", (
            "the measurement is not linear with Gaussian noise, where it was the closest to the "
            "posterior on most problems; for the evidence take 'twisted'"
        )
    if particles >= LEAST_PARTICLES and not wide:
        said = f"{particles} particles are within the calls, and "
        if gaussian:
            said += (
                f"from {LEAST_PARTICLES} on it was the closest to the exact posterior on all "
                "problems but one"
            )
        else:
            said += _UNKNOWN
        return "twisted", said
    short = f"the calls suffice for {particles} of the {LEAST_PARTICLES} particles of 'twisted'"
    if wide:
        short = f"particles degenerate with so many numbers in more than {_WIDE} dimensions"
    if gaussian:
        return "mmps", f"{short}; of the score models it is the closest on most problems"
    return "dps", f"{short}; {_UNKNOWN}"


def known_bias(method: str, curved: bool = False) -> str:
    """What is known of the bias of a method, a sentence.

    Args:
        method: the name.
        curved: whether the measurement is not linear with Gaussian noise.
    """
    at_last = "none as particles and steps grow; with 1000 particles " * (method == "twisted")
    if curved and method in CURVED:
        low, high = CURVED[method]
        largest = f"{high:.2g} times" if math.isfinite(high) else "any number of times"
        return (
            f"{at_last}{low:.2g} to {largest} the distance of exact samples on measurements that "
            "are not linear with Gaussian noise, in 5 dimensions"
        )
    if method == "twisted":
        low, high = BIAS["twisted, K = 1000"]
        return (
            f"{at_last}{low:g} to {high:g} times the distance of exact samples on the priors that "
            "were measured"
        )
    text = _KNOWN[method]
    if method in BIAS:
        low, high = BIAS[method]
        text += f"; {low:g} to {high:g} times the distance of exact samples on mixtures"
    return text
