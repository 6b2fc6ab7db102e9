"""Stated errors are true, calls are counted, nothing unfinished passes for finished."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import estimated
from torch import Tensor

from benchmarks import stated_errors
from scoresde import (
    EDMSDE,
    VESDE,
    VPSDE,
    AdaptiveODE,
    CosineSDE,
    FlowSDE,
    Gaussian,
    GaussianMixture,
    Grid,
    Quantisation,
    ReverseSampler,
    ReverseSDE,
    ScoreModel,
    SubVPSDE,
    discrete_log_prob,
    encode,
    log_prob,
    sample_to,
)
from scoresde.noise import Independent
from scoresde.noise.dyadic import DyadicPath
from scoresde.options import Divergence, Tolerances
from scoresde.prediction import Prediction
from scoresde.schedule.grid import log_snr
from scoresde.solvers import AdaptiveSDE, Unfinished, UnfinishedWarning
from scoresde.solvers.adaptive.base import Caller, Tally, error_norm
from scoresde.solvers.adaptive.ode import Angle, Flow
from scoresde.solvers.adaptive.sde import _Samples

D = torch.float64
VP = VPSDE()
TWO = GaussianMixture(torch.tensor([[-1.0], [1.0]], dtype=D), torch.tensor([0.01, 0.04], dtype=D))


class Double(ScoreModel):
    """A model that takes two network evaluations for a prediction, as a guided one does."""

    def __init__(self) -> None:
        super().__init__()
        self.sde, self.inner, self.count = VP, TWO.under(VP), 0

    def calls(self, node):
        return 2

    def predict(self, node, x, cond=None):
        self.count += 2
        return self.inner.predict(node, x)


def unit(dim: int, std: float) -> Gaussian:
    return Gaussian(torch.zeros(dim, dtype=D), torch.tensor(std**2, dtype=D))


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["log_prob", "encode"])
@pytest.mark.parametrize("name", ["std 1e-3, 1-D", "condition 1e4, 8-D", "ring of 8"])
def test_stated_errors_are_true(what: str, name: str) -> None:
    """Of 24 samples none is off by more than 5 times its stated error."""
    problem = next(p for p in stated_errors.problems() if p.name.startswith(name))
    modes = name == "ring of 8"  # the flow of a mixture is found by a reference
    for family in ("VP",) if modes else ("sub-VP", "VE", "cosine", "EDM", "flow"):
        sde = stated_errors.families()[family]
        for tol in (1e-3, 1e-5):
            found = stated_errors.cell(what, family, sde, problem, tol, 24)
            assert found.off == 0.0, found


OFTEN = {1e-4: None, 1e-6: "VP"}  # tolerance -> the only family that is not left to the night
CELLS = [
    pytest.param(
        family, tol, marks=[] if OFTEN.get(tol, "") in (None, family) else pytest.mark.nightly
    )
    for family in ("VP", "sub-VP", "VE", "cosine", "EDM", "flow", "linear", "chain")
    for tol in (1e-4, 1e-6, 1e-8)
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "tol"), CELLS)
def test_stated_errors_are_true_for_every_kind_of_data(family: str, tol: float) -> None:
    sde = stated_errors.families()[family]
    for problem in stated_errors.problems():
        found = stated_errors.cell("log_prob", family, sde, problem, tol, 64)
        assert found.off <= 0.02, found


@pytest.mark.parametrize(
    ("sde", "std"),
    [(FlowSDE(), 1e-3), (SubVPSDE(), 1e-3), (VP, 1e-2), (VESDE(), 1e-2), (EDMSDE(), 1e-2)],
    ids=lambda v: type(v).__name__,
)
def test_codes_of_narrow_data_are_the_closed_form(sde: Any, std: float) -> None:
    """The flow of Gaussian data is linear; a first step past their scale would miss it."""
    data = Gaussian(torch.tensor([0.3, -0.2], dtype=D), torch.tensor(std**2, dtype=D))
    x = data.sample(64)
    latent = encode(sde, data.under(sde), x, check=True)
    exact = data.flow(sde, x, sde.t_end, sde.T)
    spread = math.hypot(sde.alpha(sde.T) * std, sde.sigma(sde.T))
    assert float((latent.z - exact).abs().max()) < 2e-3 * spread
    back = data.flow(sde, latent.z, sde.T, sde.t_end)
    error = (back - x).square().mean(1).sqrt()
    assert bool((error <= latent.error).all())
    assert bool((latent.round_trip <= latent.error).all())


def test_the_first_step_up_is_no_longer_than_the_scale_of_the_data() -> None:
    for std in (1e-3, 1e-2, 0.1, 0.5):
        for sde in (VP, CosineSDE(), EDMSDE()):
            data = unit(3, std)
            flow = started(AdaptiveODE(), sde, data.sample(8), data, (sde.t_min, sde.T))
            u = float(flow.u[0])
            assert bool((flow.h <= 1.01 * max(u, std / 0.5)).all()), (std, sde, flow.h, u)
            assert bool((flow.h >= min(u, 0.3)).all())


def test_the_first_step_down_is_that_of_the_tolerance() -> None:
    """0.3 (tol / 1e-5)^(1/5), of at most 1.5 times that; less where the slope is steep."""
    data = unit(3, 0.5)
    x = data.marginal(VP, VP.T).sample(4)
    for tol, step in ((1e-3, 0.45), (1e-5, 0.3), (1e-8, 0.3 * 1e-3**0.2)):
        flow = started(AdaptiveODE(rtol=tol, atol=tol), VP, x, data, (VP.T, VP.t_end))
        torch.testing.assert_close(flow.h, torch.full_like(flow.h, step))
    wide = unit(3, 40.0)
    x = wide.marginal(VP, VP.T).sample(4)
    flow = started(AdaptiveODE(), VP, x, wide, (VP.T, VP.t_end))
    steep = flow.slope.square().mean(1).sqrt() / flow.y.square().mean(1).sqrt().clamp_min(1.0)
    torch.testing.assert_close(flow.h, 0.3 / steep)
    assert float(flow.h.max()) < 0.1


def started(
    solver: AdaptiveODE, sde: Any, x: Tensor, data: Any, segment: tuple[float, ...]
) -> Flow:
    caller = Caller(ReverseSDE(sde, data.under(sde), 0.0), len(x))
    return Flow.start(solver, Angle(sde, 0.5), caller, x, segment, Tally.of(len(x), segment[0]))


def test_legs_that_start_without_noise() -> None:
    """At t = 0 the angle is 0: codes are as exact from there."""
    data = unit(2, 0.3)
    x = data.sample(5)
    for sde in (VP, FlowSDE()):
        z = encode(sde, data.under(sde), x, t=0.0, solver=AdaptiveODE(rtol=1e-7, atol=1e-7)).z
        torch.testing.assert_close(z, data.flow(sde, x, 0.0, sde.T), rtol=1e-5, atol=1e-5)


def test_a_network_that_is_off_where_there_is_no_noise() -> None:
    """There an exact model says v = 0; a small error of it must not pass for a flat score."""
    data = unit(2, 0.003)
    x = data.sample(4)

    class Off(ScoreModel):
        sde = VP

        def predict(self, node, x, cond=None):
            v = data.under(VP).predict(node, x).v
            return Prediction(x, node, v + 1e-6, "v")

    caller = Caller(ReverseSDE(VP, Off(), 0.0), len(x))
    segment = (0.0, VP.T)
    flow = Flow.start(AdaptiveODE(), Angle(VP, 0.5), caller, x, segment, Tally.of(len(x), 0.0))
    assert float(flow.h.max()) == 1e-4
    z = encode(VP, Off(), x, t=0.0).z
    torch.testing.assert_close(z, data.flow(VP, x, 0.0, VP.T), rtol=1e-3, atol=1e-3)


def test_one_sample_and_half_precision() -> None:
    """States of half precision are walked in float32; a sample alone is the one in a batch."""
    x = torch.tensor([[0.9]], dtype=torch.float16)
    code = encode(VP, TWO.under(VP), x, check=True)
    assert code.z.dtype == torch.float32 and float(code.round_trip) <= float(code.error) < 1e-3
    alone = log_prob(TWO.under(VP), TWO.sample(3)[:1], divergence="exact")
    among = log_prob(TWO.under(VP), TWO.sample(3), divergence="exact")
    assert float(alone.nats) == pytest.approx(float(among.nats[0]), abs=1e-12)


def test_smooth_data_cost_one_look() -> None:
    """Where the first step passes over nothing, one call more says so."""
    data = unit(4, 0.5)
    result = log_prob(data.under(VP), data.sample(32), divergence="exact")
    tried = result.accepted + result.rejected
    assert torch.equal(result.nfe, 2 + 6 * tried)
    assert float(result.nfe.double().mean()) < 30
    tight = log_prob(
        data.under(VP),
        data.sample(32),
        divergence="exact",
        tolerances=Tolerances(1e-8, 1e-8),
    )
    assert float(tight.nfe.double().mean()) < 70


# -- the norm and the control of the step, by hand ----------------------------------------------


def test_error_norm_by_hand() -> None:
    """RMS of error / (atol + rtol max(|before|, |after|)), a number for each sample."""
    error = torch.tensor([[3e-3, 4e-3], [0.0, 1e-3]], dtype=D)
    before = torch.tensor([[2.0, -1.0], [0.0, 0.0]], dtype=D)
    after = torch.tensor([[1.0, 3.0], [0.0, -9.0]], dtype=D)
    found = error_norm(error, before, after, 1e-2, 1e-3)
    exact = [
        math.sqrt(((3 / 21) ** 2 + (4 / 31) ** 2) / 2),
        math.sqrt((0.0 + (1 / 91) ** 2) / 2),
    ]
    assert found.tolist() == pytest.approx(exact, rel=1e-12)
    assert error_norm(error * math.nan, before, after, 1e-2, 1e-3).tolist() == [math.inf] * 2


def test_the_next_step_by_hand() -> None:
    """h' = 0.9 h e^(-1/5 + 0.03) last^0.04, from 0.2 to 10 times h; 1 after a rejection."""
    flow = started(AdaptiveODE(), VP, torch.zeros(6, 1, dtype=D), TWO, (VP.T, VP.t_end))
    rows, live = torch.arange(6), torch.ones(6, dtype=torch.bool)
    error = torch.tensor([0.5, 1e-9, 0.9, 8.0, 1e9, 0.05], dtype=D)
    h = torch.full((6,), 0.1, dtype=D)
    flow.h, flow.last_error = h.clone(), torch.tensor([0.3, 0.3, 1e-4, 0.3, 0.3, 0.3], dtype=D)
    flow.after_rejection = torch.tensor([False, False, False, False, False, True])
    flow._next_steps(rows, live, error <= 1.0, error, -h)
    up = [0.9 * e**-0.17 * last**0.04 for e, last in ((0.5, 0.3), (0.9, 1e-4))]
    down = 0.9 * 8.0**-0.17
    factors = [up[0], 10.0, up[1], down, 0.1, 1.0]
    assert (flow.h / h).tolist() == pytest.approx(factors, rel=1e-12)
    assert flow.last_error.tolist() == pytest.approx([0.5, 1e-4, 0.9, 0.3, 0.3, 0.05])
    assert flow.after_rejection.tolist() == [False, False, False, True, True, False]


def test_the_next_level_of_the_reverse_sde_by_hand() -> None:
    """Doubled where 0.9 e^(-2/3) >= 2 for this error and the last; halved by a rejection."""
    x, segment = torch.zeros(4, 1, dtype=D), log_snr(VP, 4).times
    process = ReverseSDE(VP, TWO.under(VP), 1.0)
    tree = DyadicPath(VP, segment, Independent(0), x)
    samples = _Samples.start(AdaptiveSDE(), tree, Caller(process, 4), x, Tally.of(4, VP.T))
    samples.begin(4)
    level = int(samples.level[0]) + 2
    samples.level = torch.full_like(samples.level, level)
    error = torch.tensor([0.2, 0.2, 0.5, 4.0], dtype=D)
    samples.last_error = torch.tensor([0.1, 0.4, 0.1, 0.1], dtype=D)
    live = torch.ones(4, dtype=torch.bool)
    samples._next_levels(torch.arange(4), live, error <= 1.0, error)
    assert (samples.level - level).tolist() == [-1, 0, 0, 1]
    scaled = [0.2 * 2**1.5, 0.2, 0.5, 4.0 * 0.5**1.5]
    assert samples.last_error.tolist() == pytest.approx(scaled, rel=1e-6)


def test_documented_defaults() -> None:
    for function in (log_prob, discrete_log_prob):
        known = {k: p.default for k, p in inspect.signature(function).parameters.items()}
        assert known["tolerances"] == Tolerances(1e-5, 1e-5, 10_000)
        assert known["divergence"] == Divergence("hutchinson", 1, "rademacher", None)
        assert known["t_end"] is None
    assert AdaptiveODE() == AdaptiveODE("dopri5", 1e-5, 1e-5, 0.5, 10_000, False, False)
    assert AdaptiveSDE() == AdaptiveSDE(1e-2, 1e-2, 0.5, 10_000, False)


# -- the ends of the flow where alpha is not 1 --------------------------------------------------


@pytest.mark.parametrize(("sde", "t"), [(VP, 0.1), (FlowSDE(), 0.2)], ids=["vp", "flow"])
def test_the_bound_on_levels_where_alpha_is_not_one(sde: Any, t: float) -> None:
    """A level's probability is that of x_t/alpha in its bin, by the error function."""
    quantisation, std = Quantisation(33), 0.4
    node, half = sde.at(t), quantisation.bin_width / 2
    levels = quantisation.encode(torch.arange(8, 25)[:, None], dtype=D)
    spread = math.hypot(std, node.sigma / node.alpha)
    edges = [torch.special.ndtr((levels[:, 0] + e) / spread) for e in (half, -half)]
    truth = (edges[0] - edges[1]).log()
    data = unit(1, std)
    result = discrete_log_prob(
        data.under(sde), levels, quantisation, draws=8, divergence="exact", t_end=t,
        prior=data.marginal(sde, sde.T),
    )  # fmt: skip
    gap = truth - result.nats
    error = float(result.draws.mean(1).std()) / math.sqrt(8)
    assert -4 * error < float(gap.mean()) < 0.01 + 4 * error
    assert error < 0.01 < -math.log(node.alpha) / 4


@pytest.mark.parametrize("truncation", ["none", "scaled"])
def test_truncation_in_many_dimensions_where_alpha_is_not_one(truncation: str) -> None:
    sde, t, dim = FlowSDE(), 1e-2, 20
    data, node = unit(dim, 1.0), sde.at(t)
    x = data.sample(16)
    result = log_prob(
        data.under(sde), x, truncation=truncation, divergence="exact", t_end=t,
        prior=data.marginal(sde, sde.T),
    )  # fmt: skip
    noisy = Gaussian(data.mean, data.covariance + (node.sigma / node.alpha) ** 2)
    stated = {"none": data.marginal(sde, t), "scaled": noisy}[truncation]
    truth = stated.log_prob(x) - data.log_prob(x)
    assert float((result.truncation - truth).abs().max()) < 0.02
    assert float((result.nats - stated.log_prob(x)).abs().max()) < 1e-3


# -- calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AdaptiveODE, AdaptiveSDE])
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_calls_are_those_of_the_network(kind: Any, compact: bool, labelled: bool) -> None:
    cond = {"label": torch.zeros(16)} if labelled else None
    model, loose = Double(), {"rtol": 0.1, "atol": 0.1, "compact": compact}
    sampler = ReverseSampler(VP, model, kind(**loose), steps=4)
    found = sampler.solve((16, 1), seed=0, cond=cond, dtype=D)
    assert model.count == found.nfe
    single = ReverseSampler(VP, model.inner, kind(**loose), steps=4)
    once = single.solve((16, 1), seed=0, cond=cond, dtype=D)
    assert torch.equal(found.x, once.x) and found.nfe == 2 * once.nfe
    assert torch.equal(found.stats["nfe"], 2 * once.stats["nfe"])
    assert int(found.stats["nfe"].max()) <= found.nfe
    if not compact and kind is AdaptiveODE:
        assert int(found.stats["nfe"].max()) == found.nfe


@pytest.mark.parametrize("kind", [AdaptiveODE, AdaptiveSDE])
def test_budgets_are_in_calls_of_the_network(kind: Any) -> None:
    model = Double()
    sampler = ReverseSampler(VP, model, kind(max_nfe=30), steps=4, denoise=False)
    with pytest.warns(UnfinishedWarning):
        found = sampler.solve((4, 1), seed=0, dtype=D)
    assert found.status == "budget" and int(found.stats["nfe"].max()) <= 30
    assert int(found.stats["nfe"].max()) > 30 - 14 and model.count == found.nfe


def test_calls_of_a_likelihood() -> None:
    x = TWO.sample(6)
    for options in (
        {"divergence": "exact"},
        {"probes": 4, "divergence": "hutch++"},
        {"probes": 2},
    ):
        for truncation in ("none", "jensen"):
            model = Double()
            twice = log_prob(model, x, truncation=truncation, **estimated(**options))
            once = log_prob(TWO.under(VP), x, truncation=truncation, **estimated(**options))
            assert torch.equal(twice.nfe, 2 * once.nfe)
            # samples look at the ends of their first steps in other calls than their mates
            assert 0 <= model.count - int(twice.nfe.max()) <= 6
            alone = Double()
            single = log_prob(alone, x[:1], truncation=truncation, **estimated(**options))
            assert alone.count == int(single.nfe)
    with pytest.warns(UnfinishedWarning) as told:
        cut = log_prob(Double(), x, tolerances=Tolerances(max_nfe=60))
    assert told[0].filename == __file__
    assert int(cut.nfe.max()) <= 60 and bool(cut.nats.isnan().any())


# -- what is not finished -----------------------------------------------------------------------


def test_samples_that_were_stopped_are_not_handed_out(tmp_path: Path) -> None:
    for solver in (AdaptiveODE(max_nfe=20), AdaptiveSDE(max_nfe=6)):
        sampler = ReverseSampler(VP, TWO.under(VP), solver, steps=4)
        told = r"stopped before t = 0.001 in 5 of 5 samples, first in row 0, at t = 0\..*max_nfe"
        with pytest.raises(Unfinished, match=told) as caught:
            sampler.sample((5, 1), seed=0)
        with pytest.warns(UnfinishedWarning, match=told):
            found = sampler.solve((5, 1), seed=0)
        assert found.status == "budget" and torch.equal(caught.value.solution.x, found.x)
        out = tmp_path / type(solver).__name__
        with pytest.raises(Unfinished, match=r"samples from number 0: Adaptive.* max_nfe"):
            sample_to(sampler, out, 5, (1,))
        assert not list(out.glob("*.npz"))


def test_the_message_counts_over_batches() -> None:
    full = ReverseSampler(VP, TWO.under(VP), AdaptiveODE()).solve((8, 1), seed=0)
    limit = int(full.stats["nfe"].sort().values[3]) - 1
    sampler = ReverseSampler(VP, TWO.under(VP), AdaptiveODE(max_nfe=limit))
    with pytest.warns(UnfinishedWarning) as told:
        found = sampler.solve((8, 1), seed=0, batch_size=3)
    late = found.stats["budget"]
    assert 0 < int(late.sum()) < 8
    row = int(late.nonzero()[0])
    assert f"in {int(late.sum())} of 8 samples, first in row {row}" in str(told[0].message)
    torch.testing.assert_close(found.x[~late], full.x[~late], rtol=1e-5, atol=1e-5)


def test_finished_samples_warn_of_nothing(recwarn: Any) -> None:
    sampler = ReverseSampler(VP, TWO.under(VP), AdaptiveODE())
    assert sampler.solve((3, 1), seed=0).unfinished == ""
    assert sampler.sample((3, 1), seed=0).shape == (3, 1)
    log_prob(TWO.under(VP), TWO.sample(2))
    assert not [w for w in recwarn if issubclass(w.category, UnfinishedWarning)]


def test_a_tolerance_that_cannot_be_met_is_said() -> None:
    def swings(t: Tensor, x: Tensor) -> Tensor:
        return torch.where(t < 0.37, 1e8 * torch.sin(1e17 * t), -x)

    sampler = ReverseSampler(VP, swings, AdaptiveODE(rtol=1e-13, atol=1e-13))
    with pytest.raises(Unfinished, match=r"no step short enough \(underflow\); loosen rtol"):
        sampler.sample((2, 1), seed=0, dtype=D)


def test_grids_of_several_segments_start_anew_with_care() -> None:
    """A restart at a small angle: the first step of each segment is that of its own start."""
    data = unit(2, 1e-2)
    grid = Grid(((VP.T, 1e-3), (0.05, 1e-3)))
    process = ReverseSDE(VP, data.under(VP), 0.0)
    x = data.marginal(VP, VP.T).sample(400)
    out = AdaptiveODE(rtol=1e-6, atol=1e-6).solve(process, x, grid, noise=Independent(1))
    exact = data.marginal(VP, 1e-3).covariance
    assert out.status == "done"
    assert float(out.x.var()) == pytest.approx(float(exact.mean()), rel=0.15)


def test_the_page_of_the_battery_counts_cells_and_calls() -> None:
    known = {"what": "log_prob", "family": "VP", "data": "ring", "smooth": True, "worst": 9.0}
    known |= {"error": 1.0, "stated": 2.0}
    now = [
        stated_errors.Cell(**known, tolerance=t, off=o, calls=40.0)
        for t, o in ((1e-3, 0.5), (1e-5, 0))
    ]
    before = [stated_errors.Cell(**known, tolerance=t, off=1.0, calls=50.0) for t in (1e-3, 1e-5)]
    about = {"command": "run", "what": "16 samples", "reference": {"VP": 2e-12}}
    page = stated_errors.page(about, now, {stated_errors.key(c): c for c in before})
    assert "| VP | 2 | 1 | 25.00% | 9 | 100.00% | 9 | -20.0% |" in page
    assert "-20.0% on smooth data" in page and "at most 2.0e-12" in page
    assert "| VP | ring | 0.001 | 50.0% | 9 | 1.0e+00 | 2.0e+00 |" in page
