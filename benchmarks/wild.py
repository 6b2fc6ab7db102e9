"""Errors that libraries have shipped, each found by a check of two lines with an exact answer.

    .venv/bench/bin/python benchmarks/wild.py [--only coefficient]

It writes results/wild.json, docs/wrong_in_the_wild.md and its pictures in docs/wild. Everything is
measured in this run, on the released packages in the environment of the benchmarks (`make bench`)
and on a formula written out here, in float64 where the library lets it; an entry names the version
that ran. A package that is missing leaves its rows out, and the page says so. `--only` measures
the entries with this text in their title, and keeps the figures of the others.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scoresde
from scoresde._io import write
from scoresde.options import Divergence

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks import wild_deepinv
from benchmarks.posteriors_page import table
from benchmarks.wild_checks import (
    F64,
    azula_guidance,
    azula_particles,
    batch_norm,
    by_azula,
    by_k_diffusion,
    by_own,
    by_randn,
    changed_by_mates,
    flow_matching_log_p,
    mean_start,
    nats_of,
    of_flow,
    order,
    order_of,
    own,
    own_flow,
    own_guidance,
    own_log_p,
    own_particles,
    peer,
    ratios_of,
    shares_of,
    sorted_pairs,
    spread,
    spread_of_share,
    start_of,
    third,
    together_over_alone,
    torchcfm_pairs,
    variance_ratio,
)
from benchmarks.wild_pictures import Drawn, picture

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs/wrong_in_the_wild.md"
PICTURES = PAGE.parent / "wild"
Measured = Callable[[], list[float]]


@dataclass(frozen=True)
class Entry:
    """One error: what is said of it, the check as it is shown, and what ran.

    Attributes:
        title, text: what the page says.
        check: the function that the page shows.
        head: what the columns of figures are; `exact` is the exact answer.
        rows: what ran, the package that it needs, and how it is measured. The package is "" for a
            formula, and "name==version" for one that lies in a folder of its own.
        within: how far from the exact answer the picture draws a figure as right.
        digits: of the figures.
    """

    title: str
    text: str
    check: Callable[..., Any]
    head: tuple[str, ...]
    exact: str
    rows: tuple[tuple[str, str, Measured], ...]
    within: float
    digits: int = 2

    @property
    def picture(self) -> str:
        """The name of its picture."""
        return re.sub(r"[^a-z -]", "", self.title.lower()).replace(" ", "-") + ".svg"


def _entries() -> Iterator[Entry]:
    ours, formula = "scoresde", ""

    def from_peer(library: str, name: str) -> Callable[[Tensor, int], Tensor]:
        return lambda y, steps: peer(library, name, y, steps)

    yield Entry(
        "A third-order solver of second order",
        "The multistep update of DPM-Solver++ with three values needs the second derivative of a "
        "parabola, which is twice its second divided difference. The released code takes it once, "
        "so the error falls with the second power of the step and no faster. At few steps it can "
        "even be the closer one, which is why both are here: `dpmpp_3m` is the corrected scheme, "
        "`dpmpp_3m_reference` the released one. Orders still settle at 160 and 320 steps: at 640 "
        "and 1,280 the two formulas are within 0.1 of 2 and 3, as `tests/benchmarks/test_wild.py` "
        "checks. diffusers rounds its state to float32, and cannot be asked there.",
        order, ("observed order",), "3",
        (
            ("`sample_dpmpp_3m_sde`, eta = 0", "k-diffusion",
             lambda: order_of(from_peer("k-diffusion", "dpmpp_3m"))),
            ("`DPMSolverMultistepScheduler`, `solver_order=3`", "diffusers",
             lambda: order_of(from_peer("diffusers", "DPM++ 3M"))),
            ("the formula, once the divided difference", formula,
             lambda: order_of(partial(third, 1.0))),
            ("the formula, twice the divided difference", formula,
             lambda: order_of(partial(third, 2.0))),
            ("`xEABSampler`, `order=3`", "azula", lambda: order_of(from_peer("azula", "xEAB 3"))),
            ("`dpmpp_3m`", ours, lambda: order_of(partial(own, "dpmpp_3m"))),
        ),
        0.3,
    )  # fmt: skip
    yield Entry(
        "A second-order solver of first order",
        "The Rosenbrock-type scheme multiplies its integral by the root of alpha_s^2 + sigma_s^2, "
        "as its docstring says; the code has sigma_t^2, that of the start of the step. The result "
        "still converges, so a test of shapes and of finite values passes. `xEABSampler` of the "
        "same package is of the order that it claims.",
        order, ("observed order",), "2",
        (
            ("`REABSampler`, `order=2`", "azula", lambda: order_of(from_peer("azula", "REAB 2"))),
            ("`xEABSampler`, `order=2`", "azula", lambda: order_of(from_peer("azula", "xEAB 2"))),
            ("`dpmpp_2m`", ours, lambda: order_of(partial(own, "dpmpp_2m"))),
        ),
        0.3,
    )  # fmt: skip
    yield Entry(
        "A stochastic solver that gets worse with every step",
        "In the third-order form of SDE-DPM-Solver++ one 0.5 has the wrong sign, so the weight of "
        "the second difference goes to -1 and not to 0 as steps get shorter, and the spread "
        "within a mode does not converge. Order 2, the default of the same class, is right.",
        variance_ratio, ("50 steps", "100 steps", "400 steps"), "1",
        (
            ("`sde-dpmsolver++`, `solver_order=3`", "diffusers",
             lambda: ratios_of(from_peer("diffusers", "SDE-DPM++ 3M"))),
            ("`sde-dpmsolver++`, `solver_order=2`", "diffusers",
             lambda: ratios_of(from_peer("diffusers", "SDE-DPM++ 2M"))),
            ("`sample_dpmpp_3m_sde`", "k-diffusion",
             lambda: ratios_of(from_peer("k-diffusion", "dpmpp_3m_sde"))),
            ("`dpmpp_3m_sde`", ours, lambda: ratios_of(partial(own, "dpmpp_3m_sde"))),
        ),
        0.2,
    )  # fmt: skip

    old = "0.4.2"
    yield Entry(
        "A diffusion coefficient that belongs to another schedule",
        "In deepinv 0.4.0 to 0.4.2 the slope of sigma that the variance-preserving diffusion "
        "hands to its solvers is twice that of its own sigma: the 2 of the derivative of a square "
        "is missing. So the squared diffusion g^2, and the share of the score in the drift, are "
        "doubled. The probability flow then shrinks all samples to nearly one point, and a finer "
        "grid does not help: for the normal data here, one standard deviation of noise ends at "
        "0.0033 of one of the data, which is exp(-B/2)/2 with B = 10.05, the integral of beta. "
        "The authors found and mended it themselves: 0.5.0 is right. The quotient below "
        "finds such a factor in any schedule.",
        of_flow, ("slope", "standard deviation at the end"), "1",
        (
            ("`VariancePreservingDiffusion`", f"deepinv=={old}",
             lambda: wild_deepinv.older(old)),
            ("`VariancePreservingDiffusion`", "deepinv", wild_deepinv.figures),
            ("`VPSDE`", ours, own_flow),
        ),
        0.01,
        4,
    )  # fmt: skip

    def alone(guidance: Callable[[Tensor], Tensor]) -> Measured:
        return lambda: [together_over_alone(guidance, torch.tensor([[0.7]], dtype=F64))]

    yield Entry(
        "Guidance whose strength depends on the batch",
        "DPS divides the gradient by the norm of the residual. A norm over the whole batch makes "
        "a sample depend on its mates, and with B alike samples the guidance falls as one over "
        "the root of B: 1/8 for 64. Whoever samples one at a time does not notice.",
        together_over_alone, ("ratio",), "1",
        (
            ("`DPSSampler`", "azula", alone(azula_guidance)),
            ("the formula, norm over the batch", formula, alone(batch_norm)),
            ("`DPS`", ours, alone(own_guidance)),
        ),
        0.1,
        3,
    )  # fmt: skip

    def nats(log_p: Callable[[Tensor], Tensor]) -> Measured:
        return lambda: nats_of(log_p)

    yield Entry(
        "A likelihood by one probe, without its error",
        "Hutchinson's estimate of the divergence is right on average and can be far off for each "
        "point; log p of a Gaussian in 16 dimensions with correlations is off by several nats. "
        "`exact_divergence=True` is there, and exact. Our own default is one probe too, with "
        "much the same spread; the difference is that `found.budget()` then says `nan` for the "
        "standard error, and a number with more probes.",
        spread, ("mean error in nats", "standard deviation"), "0",
        (
            ("`compute_likelihood`, default", "flow_matching",
             nats(partial(flow_matching_log_p, False))),
            ("`compute_likelihood`, `exact_divergence=True`", "flow_matching",
             nats(partial(flow_matching_log_p, True))),
            ("`log_prob`, default", ours, nats(partial(own_log_p, Divergence()))),
            ("`log_prob`, `Divergence(probes=10)`", ours,
             nats(partial(own_log_p, Divergence(probes=10)))),
            ('`log_prob`, `divergence="exact"`', ours, nats(partial(own_log_p, "exact"))),
        ),
        0.1,
        3,
    )  # fmt: skip

    def mates(sample: Callable[[int], Tensor]) -> Measured:
        return lambda: [changed_by_mates(sample)]

    yield Entry(
        "One seed, another batch size, another sample",
        "A generator that fills the batch in order gives the first sample other noise from the "
        "second step on when the batch is larger. It is how torch works, and not an error of the "
        "packages named, which promise nothing else; it is a trap for whoever compares runs. "
        "Noise that is keyed by (seed, sample, interval) has no such dependence, and k-diffusion "
        "takes it as `noise_sampler`.",
        changed_by_mates, ("largest change",), "0",
        (
            ("`sample_euler_ancestral`, default noise", "k-diffusion", mates(by_k_diffusion)),
            ("`DDPMSampler`", "azula", mates(by_azula)),
            ("`torch.randn_like` at every step", formula, mates(by_randn)),
            ('`ReverseSampler(..., "ancestral")`', ours, mates(by_own)),
        ),
        0.01,
    )  # fmt: skip
    yield Entry(
        "Couplings that ruin conditioning",
        "Optimal transport within a batch pairs noise with data, and labels come along with the "
        "data. So the noise knows the label in training, but is drawn without it to sample: the "
        "network is asked for pairs that it hardly saw. Here the data of the classes lie "
        "about -3 and 3, and the mean of the noise for +1 goes to the root of 2/pi, 0.798, as "
        "batches grow. Without a condition the coupling is sound; with one, couple within a "
        "class, or not at all.",
        mean_start, ("mean noise",), "0",
        (
            ("`ExactOptimalTransportConditionalFlowMatcher`", "torchcfm", lambda: start_of(
                partial(torchcfm_pairs, "ExactOptimalTransportConditionalFlowMatcher"))),
            ("`ConditionalFlowMatcher`", "torchcfm",
             lambda: start_of(partial(torchcfm_pairs, "ConditionalFlowMatcher"))),
            ("both sides sorted", formula, lambda: start_of(sorted_pairs)),
        ),
        0.1,
        3,
    )  # fmt: skip
    yield Entry(
        "Particles that get worse with more steps",
        "A twisted sampler that resamples by independent draws at every step loses particles also "
        "where all weights are equal, and more of them the more steps there are. The check is a "
        "twist that says nothing: what comes out must be the prior, two modes of equal weight, "
        "and the share of one of them must spread as that of 256 independent draws. Resampling "
        "only where the weights have become uneven, and then systematically, has this property.",
        spread_of_share, ("30 steps", "100 steps", "300 steps"), "0.031",
        (
            ("`TDSSampler`", "azula", lambda: shares_of(partial(azula_particles, "TDSSampler"))),
            ("`DDPMSampler`, no resampling", "azula",
             lambda: shares_of(partial(azula_particles, "DDPMSampler"))),
            ("`TwistedSampler`", ours, lambda: shares_of(own_particles)),
        ),
        0.01,
        3,
    )  # fmt: skip


ENTRIES = tuple(_entries())


def version(package: str) -> str | None:
    """That of a package which is installed, or of an older one which has its folder."""
    if package == "scoresde":
        return scoresde.__version__
    name, older, number = package.partition("==")
    if older:
        return number if wild_deepinv.folder(name, number).is_dir() else None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def measure(only: str = "") -> dict[str, Any]:
    """The versions, and the figures of every entry with this text in its title, row by row."""
    packages = sorted({package for entry in ENTRIES for _, package, _ in entry.rows if package})
    versions = {package: version(package) for package in packages}
    versions["torch"] = torch.__version__.split("+")[0]
    figures: dict[str, dict[str, list[float]]] = {}
    for entry in (each for each in ENTRIES if only in each.title):
        rows = figures[entry.title] = {}
        for name, package, run in entry.rows:
            if not package or versions[package] is not None:
                made = rows[f"{package} {name}".strip()] = run()
                print(f"{entry.title}: {package} {name}: {made}", flush=True)
    return {"versions": versions, "figures": figures}


def wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def page(found: dict[str, Any]) -> str:
    """The text of docs/wrong_in_the_wild.md."""
    versions = found["versions"]
    missing = [name for name, number in versions.items() if number is None]
    text = PREFACE
    if missing:
        text += f"\nNot installed in this run, so without rows: {', '.join(missing)}.\n"
    for entry in ENTRIES:
        rows = [["exact", "", *[entry.exact] * len(entry.head)]]
        for name, package, _ in entry.rows:
            figures = found["figures"][entry.title].get(f"{package} {name}".strip())
            if figures is not None:
                told = (
                    f"{package.partition('==')[0]} {versions[package]}"
                    if package
                    else "written out here"
                )
                rows.append([name, told, *(f"{value:.{entry.digits}f}" for value in figures)])
        code = re.sub(r'    """.*?"""\n', "", inspect.getsource(entry.check), flags=re.DOTALL)
        text += (
            f"\n## {entry.title}\n\n{wrapped(entry.text)}\n\n"
            f"{wrapped(inspect.getdoc(entry.check) or '')}\n\n```py\n{code}```\n\n"
            f"![{entry.title}: the figures of the table]({PICTURES.name}/{entry.picture})\n\n"
        )
        text += table(["what ran", "version", *entry.head], rows)
    return text + OURS


def pictures(found: dict[str, Any]) -> dict[str, str]:
    """The pictures of the page: name of the file -> SVG."""
    made = {}
    for entry in ENTRIES:
        figures = found["figures"][entry.title]
        names = [f"{package} {name}".strip() for name, package, _ in entry.rows]
        rows = [(name, figures[name]) for name in names if name in figures]
        exact, drawn = float(entry.exact), Drawn(entry.head, entry.within, entry.digits)
        made[entry.picture] = picture(entry.title, exact, rows, drawn)
    return made


def publish(found: dict[str, Any]) -> None:
    """Write the page and its pictures."""
    write(PAGE, page(found).encode())
    for name, text in pictures(found).items():
        write(PICTURES / name, text.encode())


PREFACE = """# Wrong in the wild

Errors and traps in released packages, each with a check of a few lines and the exact answer. None
of them shows in the shape of a result or in whether it is finite; they were found on data whose
answers are known in closed form. How these packages do otherwise [the
results](../benchmarks/README.md) show. Later releases may have mended what is written of these
versions.

`python benchmarks/wild.py` measures all of it in one run and writes this page from
`benchmarks/results/wild.json`; `make bench` makes the environment with the packages, and one older
version in a folder of its own. Unless an entry says otherwise, solvers run on two equal modes of
standard deviation 0.1 in one dimension, with the exact score, over nodes uniform in the log-SNR.
"written out here" is the formula alone, without a package.
"""

OURS = """
## Ours

The same eyes on our own work. What such checks found here before the first release stands in [the
changelog](../CHANGELOG.md) under Fixed. What is left: a likelihood by one probe is our default, as
said above. The stated error of log p(y) of `TwistedSampler` is that of a finite number of
particles alone: on priors like real data log p(y) was off by up to five times as much
([Posteriors](posteriors.md#on-priors-like-real-data)). `MMPS`, `PiGDM`, `TMPD` and `DPS` are far
from the exact posterior on far modes ([how far](posteriors.md#how-far-from-the-exact-posterior)).
"""


def merged(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Earlier figures with those of some entries new, in the order of the page.

    Raises:
        ValueError: the other entries were measured with another version of a package.
    """
    then, now = before["versions"], new["versions"]
    other = [name for name, number in then.items() if now.get(name, number) != number]
    if other:
        raise ValueError(f"--only: other versions than before of {', '.join(other)}; leave it out")
    figures = before["figures"] | new["figures"]
    order = [entry.title for entry in ENTRIES if entry.title in figures]
    return {"versions": now, "figures": {title: figures[title] for title in order}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", default="", help="a part of the titles of the entries to measure"
    )
    only = parser.parse_args().only
    file, found = RESULTS / "wild.json", measure(only)
    if only:
        found = merged(json.loads(file.read_text(encoding="utf-8")), found)
    write(file, (json.dumps(found, indent=1) + "\n").encode())
    publish(found)


if __name__ == "__main__":
    main()
