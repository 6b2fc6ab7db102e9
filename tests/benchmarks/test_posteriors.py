"""The problems, metrics and pages of the benchmarks of posterior samplers."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import MultivariateNormal

from benchmarks import (
    guidance,
    posteriors,
    posteriors_azula,
    posteriors_deepinv,
    posteriors_gaussian,
    posteriors_levy,
    posteriors_page,
    posteriors_section,
)
from benchmarks.posteriors_problems import (
    F64,
    SOLVER,
    Reference,
    make_gaussian,
    make_problem,
    path_of,
    problem_of,
    sliced_w1,
)
from benchmarks.posteriors_rows import ROWS, settings_of
from scoresde import GaussianMixture, ReverseSampler
from scoresde.posterior import MMPS

RESULTS = Path(posteriors.RESULTS)
PAGES: dict[str, Callable[[Any], str]] = {
    "posteriors": posteriors_page.page,
    "posteriors_gaussian": posteriors_gaussian.page,
    "posteriors_levy": posteriors_levy.page,
    "guidance": guidance.page,
}


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_results_is_that_of_its_file(name: str) -> None:
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert text == PAGES[name](read(name)), f"run `python benchmarks/{name}.py`"


def test_the_section_of_the_documentation_is_that_of_the_files() -> None:
    text = posteriors_section.DOCS.read_text(encoding="utf-8")
    assert text == posteriors_section.renewed(text), (
        "run `python benchmarks/posteriors_section.py`"
    )


def test_only_the_section_of_the_documentation_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    heading = posteriors_section.HEADING
    monkeypatch.setattr(posteriors_section, "section", lambda: f"{heading}new\n")
    text = f"# Page\n\n{heading}old\n\n## After\n\ntext\n"
    assert posteriors_section.renewed(text) == f"# Page\n\n{heading}new\n\n## After\n\ntext\n"
    assert posteriors_section.renewed(f"{heading}old\n") == f"{heading}new\n"


def test_the_figures_are_those_of_the_present_settings() -> None:
    for cell, rows in read("posteriors").items():
        problem = problem_of(cell, 0)
        for name, row in rows.items():
            now = settings_of(ROWS[name], problem)
            kept = row["settings"]
            for library in ("azula", "deepinv"):  # of whichever version it was measured with
                if name.startswith(library):
                    now, kept = now | {library: ""}, kept | {library: ""}
            assert kept == now, f"{cell}, {name}: run `python benchmarks/posteriors.py`"


def test_a_figure_of_other_settings_is_made_anew_and_one_of_the_present_kept() -> None:
    name, other = "twisted, 100 steps", "MMPS"
    settings = {row: settings_of(ROWS[row], problem_of("8,1", 0)) for row in (name, other)}
    found: posteriors.Found = {
        "8,1": {
            name: {"settings": {**settings[name], "steps": 99}, "problems": {"0": {}}},
            other: {"settings": settings[other], "problems": {"0": {}}},
        }
    }
    wanted = [("8,1", name, 0), ("8,1", other, 0), ("8,1", other, 1)]
    assert list(posteriors.missing(found, wanted)) == [wanted[0], wanted[2]]
    assert found["8,1"][name] == {"settings": settings[name], "problems": {}}


def test_without_azula_its_rows_are_left_out_and_kept_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(posteriors_azula, "reason", lambda: "skipped: azula is not installed")
    row = {"settings": {"azula": "0.1"}, "problems": {"0": {}}}
    found: posteriors.Found = {"8,1": {"azula TDS, 100 steps": row}}
    wanted = [("8,1", "azula TDS, 100 steps", n) for n in range(2)]
    assert list(posteriors.missing(found, wanted)) == []
    assert found["8,1"]["azula TDS, 100 steps"]["problems"] == {"0": {}}


def test_the_distance_of_a_shift_is_its_mean_projection() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator, dtype=F64)
    shift = torch.tensor([3.0, 0.0, 0.0], dtype=F64)
    # the first entry of a random direction in 3-D is uniform on [-1, 1], so its mean size is 1/2
    assert abs(sliced_w1(x + shift, x) - 1.5) < 0.06
    assert sliced_w1(x, x) == 0.0


def test_a_problem_has_the_evidence_and_the_moments_of_its_posterior() -> None:
    problem = make_problem(8, 2, 0)
    prior, A, y, std = problem.prior, problem.A, problem.y, problem.std
    assert isinstance(prior, GaussianMixture)
    assert prior.dim == 8 and len(prior.means) == 25
    assert prior.means.abs().max() == 16.0 and math.isclose(float(prior.weights.sum()), 1.0)
    values = torch.linalg.svdvals(A)
    assert float(values.max()) <= 1.0 and std <= float(values.max())
    law = MultivariateNormal(prior.means @ A.T, A @ A.T + std**2 * torch.eye(2, dtype=F64))
    truth = torch.logsumexp(law.log_prob(y) + prior.weights.log(), 0)
    assert math.isclose(float(problem.exact.log_evidence()), float(truth), rel_tol=1e-10)
    exact = prior.posterior(A, y, std)
    gap = problem.exact.sample(20_000, seed=1).mean(0) - exact.weights @ exact.means
    assert float(gap.abs().max()) < 0.3


def test_exact_samples_are_one_floor_away_and_shifted_ones_more() -> None:
    problem = make_problem(8, 4, 0)
    reference = Reference(problem, 0)
    exact = problem.exact.sample(1000, seed=77)
    found = reference.judged(exact)
    assert 0.7 < found["distance"] / found["floor"] < 1.4
    assert abs(found["c2st"] - 0.5) < 0.05 and abs(found["c2st_floor"] - 0.5) < 0.05
    moved = reference.judged(exact + 1.0)
    assert moved["distance"] > 5 * moved["floor"] and moved["c2st"] > 0.7


def test_mmps_stays_near_with_a_slightly_wrong_score_and_many_numbers() -> None:
    """A solve that goes on along directions that are not conjugate takes 20 products a call."""
    problem = problem_of("rough 80,16", 0)
    model = MMPS(problem.model, problem.measurement)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        x = ReverseSampler(problem.sde, model, SOLVER, steps=30).sample(
            (1000, 80), seed=0, dtype=F64
        )
    judged = Reference(problem, 0, classify=False).judged(x)
    assert judged["distance"] < 2.0 * judged["floor"]
    assert model.vjps < 12 * 31


def test_a_row_gives_what_the_table_shows() -> None:
    found = ROWS["twisted, 300 steps, K = 64"].run(make_problem(8, 4, 1), 0)
    assert found["x"].shape == (1000, 8) and abs(found["log_evidence"]) < 6 * found["stated"]


def row(distance: float, **more: float) -> dict[str, Any]:
    figures = {"distance": distance, "floor": 0.5, "c2st": 0.6, "c2st_floor": 0.5, "seconds": 1.0}
    return {"settings": {}, "problems": {"0": {**figures, **more}, "1": {**figures, **more}}}


def test_the_page_says_the_ratios_and_which_aims_are_reached() -> None:
    evidence = {"log_evidence": 0.2, "stated": 0.1}
    found = {
        "8,1": {
            "twisted, 100 steps": row(0.8, **evidence),
            "twisted, 300 steps": row(0.6, **evidence),
            "twisted, 300 steps, K = 64": row(0.6, log_evidence=-0.8, stated=1.0),
            "twisted, 300 steps, K = 4096": row(0.6, log_evidence=0.1, stated=1.0),
            "azula TDS, 300 steps": row(1.5),
            "exact score": row(0.55),
            "MMPS": row(1.5),
        }
    }
    text = posteriors_page.page(found)
    assert "| sliced W over the floor, 100 steps, d = 8, 80 | 1.60 (8,1) | 1.5 | in 0 of 1" in text
    assert "| the same, 300 steps | 1.20 (8,1) | 1.3 | reached |" in text
    assert "| ours over azula's TDS, 300 steps | 0.40 (8,1) | 0.5 | reached |" in text
    assert "| rms of it over the stated error | 2.00 (8,1) | 0.8 to 1.25 | in 0 of 1" in text
    assert "| 8,1 | MMPS | 2 | 3.00 | 1.000 ± 0.000 | 5% | 0.600 | 0.500 |" in text
    # 0.8, 0.2 and 0.1 at 64, 1000 and 4096 fall by K^-0.5, as far as three points can tell
    assert "| 0.800 ± 0.000 | 0.200 ± 0.000 | 0.100 ± 0.000 | -0.50 | 2.00 |" in text


def test_the_distance_of_gaussians_is_that_of_means_and_deviations() -> None:
    zero, one = torch.zeros(4, dtype=F64), torch.ones(4, dtype=F64)
    found = posteriors_gaussian.w2(zero, torch.diag(4 * one), 3 * one, torch.diag(one))
    assert math.isclose(found, math.sqrt(9 + 1), rel_tol=1e-12)
    turn = torch.linalg.qr(
        torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    ).Q.double()
    spread = (turn * torch.arange(1.0, 5.0, dtype=F64)) @ turn.T
    assert posteriors_gaussian.w2(zero, spread, zero, spread) < 1e-7


def test_impulses_read_off_an_affine_map_and_refuse_another() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(3, 3, generator=generator, dtype=F64)
    b = torch.randn(3, generator=generator, dtype=F64)
    found = posteriors_gaussian.affine(lambda x: x @ matrix.T + b, 3)
    torch.testing.assert_close(found, (matrix, b))
    with pytest.raises(RuntimeError, match="not affine"):
        posteriors_gaussian.affine(lambda x: x.square(), 3)


def test_a_scheme_without_error_is_at_the_posterior() -> None:
    """From p_T by the map between the two Gaussians; N(0, I) is then a little off."""
    problem = make_gaussian(6, 3, 0)
    law = problem.exact.posterior()
    mean, covariance = law.means[0], law.covariances[0]
    alpha, sigma = 0.1, 0.995
    start = alpha**2 * covariance + sigma**2 * torch.eye(6, dtype=F64)
    matrix = posteriors_gaussian.root(covariance) @ torch.linalg.inv(
        posteriors_gaussian.root(start)
    )
    prior, marginal = posteriors_gaussian.errors(
        problem, lambda x: mean + (x - alpha * mean) @ matrix.T, (alpha, sigma)
    )
    assert marginal < 1e-7 < 1e-3 < prior


@pytest.mark.parametrize("cell", ["8,2", "gaussian 6,3"])
def test_the_denoiser_of_azula_is_our_mean(cell: str) -> None:
    pytest.importorskip("azula")
    problem = problem_of(cell, 0)
    schedule = posteriors_azula.over(path_of(problem, 10))
    denoiser = posteriors_azula.wrapped(problem, schedule)
    assert posteriors_azula.check(problem, denoiser, [0.0, 5.0, 10.0]) < 1e-12
    off = posteriors_azula.wrapped(make_problem(8, 2, 1), schedule)
    if cell == "8,2":
        with pytest.raises(AssertionError, match="azula's denoiser is off"):
            posteriors_azula.check(problem, off, [5.0])


def test_rows_of_the_real_fourier_transform_are_orthonormal_and_those_of_rfft() -> None:
    every = posteriors_levy.real_fourier(torch.ones(33, dtype=torch.bool))
    torch.testing.assert_close(every @ every.T, torch.eye(64, dtype=F64))
    x = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=F64)
    power = torch.fft.rfft(x, norm="ortho").abs().square()
    own = (every @ x).square()
    torch.testing.assert_close(own[1:3].sum(), 2 * power[1])
    torch.testing.assert_close(own[-1], power[-1])


def test_the_signals_have_the_prior_the_noise_and_the_posterior_that_are_said() -> None:
    signals = posteriors_levy.Signals.of(posteriors_levy.operators()["mask"], 4000, seed=3)
    variances = signals.x.var(0) / torch.arange(1, 65, dtype=F64)
    assert bool(((variances - 0.25).abs() < 0.04).all())
    power = float((signals.x @ signals.A.T).square().mean(1).median())
    assert math.isclose(10 * math.log10(power / signals.std**2), 25.0, rel_tol=1e-9)
    prior = posteriors_levy.prior()
    law = prior.posterior(signals.A, signals.y[0], signals.std)
    torch.testing.assert_close(signals.gain @ signals.y[0], law.mean)
    torch.testing.assert_close(signals.root @ signals.root.T, law.covariance)


def test_exact_samples_cover_the_truth_and_wider_narrower_or_shifted_ones_do_not() -> None:
    signals = posteriors_levy.Signals.of(posteriors_levy.operators()["blur"], 1000, seed=5)
    zero = torch.zeros(64, dtype=F64)
    exact = signals.judged(signals.root, signals.gain, zero)
    assert abs(exact["coverage"] - 0.9) < 3 * exact["error"] and abs(exact["gap"]) < 1e-9
    for factor, bound in ((0.9, -0.1), (1.1, 0.05)):
        found = signals.judged(factor * signals.root, signals.gain, zero)
        assert (found["coverage"] - 0.9) / bound > 1.0
    # the squared error of a mean that is off by s in each entry grows by 64 s^2
    shift = float((signals.root @ signals.root.T).trace() / 64) ** 0.5
    moved = signals.judged(signals.root, signals.gain, zero + shift)
    assert abs(moved["gap"] - 10 * math.log10(2.0)) < 0.4


def test_the_times_of_guided_calls_stand_beside_those_of_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cost = {"plain": 1.0, "twice": 2.0, "ClassifierFree": 2.2, "DPS": 3.0}
    clock = [0.0]

    def spending(seconds: float) -> Callable[[], None]:
        def call() -> None:
            clock[0] += seconds

        return call

    monkeypatch.setattr(guidance.time, "process_time", lambda: clock[0])
    found = guidance.ratios({name: spending(value) for name, value in cost.items()}, 3)
    assert found == {"ClassifierFree": pytest.approx([1.1] * 3), "DPS": pytest.approx([3.0] * 3)}
    text = guidance.page({"a": {"ClassifierFree": [1.0, 1.05, 1.2], "DPS": [2.0, 2.6, 3.0]}})
    assert "| 1.05 | 1.00 to 1.20 | 1.1, reached |" in text and "| 2.5, missed |" in text


def test_the_page_has_both_scores_of_the_same_problems() -> None:
    evidence = {"log_evidence": 0.2, "stated": 0.1}
    exact, wrong = row(0.6, **evidence), row(1.2, log_evidence=-0.4, stated=0.1)
    wrong["problems"]["7"] = wrong["problems"]["0"] | {"distance": 100.0}  # without its pair
    text = posteriors_page.page(
        {"8,1": {"twisted, 300 steps": exact}, "rough 8,1": {"twisted, 300 steps": wrong}}
    )
    assert "| 8,1 | twisted, 300 steps | 2 | 1.20 | 2.40 | 0.20 | 0.40 |" in text


def test_a_rough_score_has_a_small_error_and_a_large_one_of_its_jacobian() -> None:
    """(sigma^2 / alpha) J is neither symmetric nor positive in nearly pure noise."""
    exact, rough = problem_of("8,2", 0), problem_of("rough 8,2", 0)
    assert torch.equal(exact.y, rough.y) and rough.error == 0.03
    scale = exact.model.data_scale
    assert scale is not None
    for t, wrong in ((1.0, True), (0.02, False)):
        node = exact.sde.at(t)
        x = node.alpha * exact.prior.sample(200, seed=0)
        generator = torch.Generator().manual_seed(0)
        x = x + node.sigma * torch.randn(x.shape, generator=generator, dtype=F64)
        one, other = (problem.model.predict(node, x).x0 for problem in (exact, rough))
        size = node.sigma * scale[0] / math.hypot(node.alpha * scale[0], node.sigma)
        error = float((other - one).square().mean().sqrt()) / size
        assert 0.01 < error < 0.06
        J = torch.autograd.functional.jacobian(
            lambda z, at=node: rough.model.predict(at, z[None]).x0[0], x[0]
        )
        C = node.sigma**2 / node.alpha * J
        values = torch.linalg.eigvalsh((C + C.T) / 2)
        assert bool((values < -(scale[0] ** 2)).any()) == wrong
        assert bool(((C - C.T).abs() > scale[0] ** 2).any()) == wrong


def test_the_denoiser_of_deepinv_is_our_mean() -> None:
    problem = problem_of("8,2", 0)
    scale = problem.model.data_scale
    assert scale is not None
    x, sigma = problem.prior.sample(20, seed=0) / scale[0], 0.3
    found = posteriors_deepinv.denoiser(problem)(
        x[:, None, None], torch.tensor([sigma], dtype=F64)
    )
    noise = scale[0] * sigma
    truth = posteriors_azula._closed(problem.prior, 1.0, noise, scale[0] * x) / scale[0]
    torch.testing.assert_close(found[:, 0, 0], truth, rtol=1e-10, atol=1e-10)
