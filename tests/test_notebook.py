"""What a notebook shows of a sampler, a plan, a solution and a likelihood, and their figures."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde import VPSDE, Gaussian, Preconditioned, Quantisation, ReverseSampler
from scoresde._html import table
from scoresde.likelihood import LogLikelihood, discrete_log_prob, elbo, log_prob
from scoresde.nets import MLP
from scoresde.options import Divergence
from scoresde.sampler import simulate
from scoresde.solvers import Solution

VP = VPSDE()
NORMAL = Gaussian(torch.zeros(2), torch.tensor(1.0)).under(VP)
PNG = b"\x89PNG\r\n\x1a\n"


class Reader(HTMLParser):
    """The title, the rows and the picture of one table; a tag left open is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {"caption": [], "th": [], "td": []}
        self.picture: bytes | None = None
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            source = dict(attrs)["src"] or ""
            assert source.startswith("data:image/png;base64,")
            self.picture = base64.b64decode(source.partition(",")[2])
            return
        self.open.append(tag)
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts[self.open[-1]][-1] += data

    @property
    def rows(self) -> dict[str, str]:
        return dict(zip(self.texts["th"], self.texts["td"], strict=True))


def shown(thing: object) -> Reader:
    found = Reader(thing._repr_html_())  # type: ignore[attr-defined]  # which notebooks look for
    assert found.texts["caption"] == [type(thing).__name__]
    return found


def sampler(**options: object) -> ReverseSampler:
    return ReverseSampler(VP, NORMAL, "ddim", steps=5, **options)  # type: ignore[arg-type]


def test_everything_in_a_table_is_escaped() -> None:
    nasty = "<script>alert('&')</script>"
    text = table(nasty, {nasty: nasty, "left out": None})
    assert "<script" not in text
    assert Reader(text).rows == {nasty: nasty} and Reader(text).texts["caption"] == [nasty]
    assert f"<caption>{nasty}" not in table(nasty, {}, PNG)
    assert Reader(table("x", {}, PNG)).picture == PNG


def test_a_sampler_and_its_plan_show_what_a_run_will_do() -> None:
    plan = shown(sampler().plan).rows
    assert plan["steps"] == "5 from t=1 to 0.001" and plan["grid"] == "log_snr"
    assert plan["eta"] == "0.0" and plan["SDE"] == repr(VP) and plan["final denoising"] == "yes"
    assert plan["solver"].startswith("Adams(") and "chosen since" not in plan
    assert shown(sampler()).rows == {"model": type(NORMAL).__name__} | plan
    net = Preconditioned(MLP(2, width=8), VP)
    automatic = ReverseSampler(VP, net)
    rows = shown(automatic).rows
    assert rows["model"] == "Preconditioned of MLP"
    assert rows["chosen since"] == automatic.plan.why != ""
    explicit = shown(ReverseSampler(VP, NORMAL, "ddim", grid=[1.0, 0.5, 0.1], denoise=False)).rows
    assert explicit["grid"] == "explicit times" and explicit["final denoising"] == "no"


def test_a_plan_shows_functions_and_strange_reprs_as_text() -> None:
    rows = shown(ReverseSampler(VP, NORMAL, "euler_maruyama", steps=4, eta=lambda t: 1.0)).rows
    assert rows["eta"].startswith("<function")  # as text: the reader saw no such tag


def test_a_solution_shows_its_samples_and_its_plan() -> None:
    solution = sampler().solve((30, 2), seed=3, keep_path=True)
    found = shown(solution)
    assert found.rows["x"] == "a float32 tensor of shape (30, 2)"
    assert solution.path is not None
    assert found.rows["path"] == f"a float32 tensor of shape {tuple(solution.path.shape)}"
    assert found.rows["seed"] == "3" and found.rows["status"] == "done"
    assert found.rows["network evaluations"] == f"{solution.nfe} for each sample"
    assert found.rows.items() >= shown(solution.plan).rows.items()
    assert found.picture is not None and found.picture[:8] == PNG
    assert len(solution._repr_html_()) < 40_000
    stopped = shown(replace(solution, status="budget"))
    assert "stopped before the end" in stopped.rows["status"]


def of_shape(x: Tensor) -> Solution:
    return replace(sampler().solve((2, 2), seed=0), x=x)


@pytest.mark.parametrize("shape", [(4, 13), (4, 2, 8, 8), (0, 2)])
def test_a_solution_without_a_picture_shows_its_table(shape: tuple[int, ...]) -> None:
    assert shown(of_shape(torch.zeros(shape))).picture is None


def test_a_solution_that_diverged_shows_its_table() -> None:
    for shape in ((4, 2), (4, 1, 8, 8)):
        assert shown(of_shape(torch.full(shape, math.nan))).picture is None
    one = torch.zeros(4, 2)
    one[0] = math.nan
    assert shown(of_shape(one)).picture is not None


def test_a_solution_is_plotted_as_points_or_images() -> None:
    points = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    axes = of_shape(points).plot(title="two").axes[0]
    assert axes.get_title() == "two"
    assert np.allclose(axes.collections[0].get_offsets(), points)
    images = torch.zeros(100, 1, 8, 8)
    images[0] = 1.0
    (picture,) = of_shape(images).plot(most=4, low=0.0, high=2.0).axes[0].images
    canvas = np.asarray(picture.get_array())
    assert canvas[4, 4].tolist() == [0.5] * 3 and canvas[-4, -4].tolist() == [0.0] * 3
    wide = of_shape(images.requires_grad_()).plot().axes[0].images[0].get_array()
    assert wide is not None and wide.shape[0] == wide.shape[1]  # 8 by 8 of the 64 first
    with pytest.raises(ValueError, match=r"x: expected images.*; select the channels"):
        of_shape(torch.zeros(4, 13)).plot()


def test_a_forward_solution_says_that_it_has_no_eta() -> None:
    rows = shown(simulate(VP, torch.zeros(3, 2), steps=4, seed=0)).rows
    assert rows["eta"] == "none, the forward SDE"


# Likelihoods


def likelihood(probes: int = 4) -> LogLikelihood:
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return log_prob(NORMAL, x, divergence=Divergence(probes=probes, probe="gaussian"))


def test_a_likelihood_shows_its_budget() -> None:
    found = likelihood()
    rows, budget = shown(found).rows, found.budget()
    mean, error = found.estimate()
    assert rows["log p, nats"] == f"{mean:.4g} ± {error:.2g}" and rows["samples"] == "9"
    for name in ("solver error", "truncation", "prior mismatch"):
        value = budget[name.replace(" ", "_")]
        assert rows[name] == ("unknown" if math.isnan(value) else f"{value:.4g}")
    assert rows["prior mismatch"] == "unknown"  # without a control
    assert rows["divergence"] == "hutchinson, estimates of a sample: 4"
    assert rows["status"] == "done" and re.fullmatch(
        r"\d+ to \d+ for each sample", rows["network evaluations"]
    )
    assert shown(likelihood(probes=1)).rows["log p, nats"].endswith("± unknown")


def test_a_likelihood_is_plotted_in_order_with_its_errors() -> None:
    found = likelihood()
    axes = found.plot(title="a Gaussian").axes[0]
    assert axes.get_title() == "a Gaussian" and axes.get_ylabel() == "log p, nats"
    assert np.allclose(axes.lines[0].get_ydata(), found.nats.sort().values)
    (bars,) = axes.collections
    lengths = [float(np.ptp(segment[:, 1])) for segment in bars.get_segments()]
    errors = found.standard_error[found.nats.argsort()]
    assert np.allclose(lengths, 4 * errors)
    assert len(likelihood(probes=1).plot().axes[0].collections) == 0  # the errors are unknown


def test_bounds_show_their_terms_and_are_plotted() -> None:
    levels = Quantisation(8)
    x = levels.encode(torch.randint(0, 8, (5, 2), generator=torch.Generator().manual_seed(0)))
    bound = elbo(NORMAL, x, decoder="gaussian", steps=4)
    rows = shown(bound).rows
    mean, error = bound.estimate()
    assert rows["bound on -log p, nats"] == f"{mean:.4g} ± {error:.2g}"
    total = [float(term.mean()) for term in (bound.prior, bound.diffusion, bound.reconstruction)]
    assert [rows[n] for n in ("prior", "diffusion", "reconstruction")] == [
        f"{value:.4g}" for value in total
    ]
    assert np.allclose(bound.plot().axes[0].lines[0].get_ydata(), bound.nats.sort().values)
    bits = discrete_log_prob(NORMAL, x, levels, draws=5)
    mean, error = bits.estimate()
    rows = shown(bits).rows
    assert rows["bits/dim, at most"] == f"{mean:.4g} ± {error:.2g}"
    assert rows["quantisation"] == repr(levels) and rows["draws"] == "5, uniform, importance 1"
    assert "lower bound" in bits.plot().axes[0].get_ylabel()
