"""`posterior`: the choice of the method, and its samples against exact posteriors."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks import posterior_choice, posterior_curved
from scoresde import VPSDE, Gaussian, GaussianMixture, Measurement, ScoreModel
from scoresde.measurement import Blur, Identity, LogLikelihood, Mask, Matrix, PoissonNoise
from scoresde.posterior import ExactPosterior, PosteriorSamples, posterior
from scoresde.posterior.choice import BIAS, CURVED, LEAST_PARTICLES, METHODS, choose, known_bias
from scoresde.summary import DataRangeWarning

F64 = torch.float64
SDE = VPSDE()
COVARIANCE = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 0.5]], dtype=F64)
PRIOR = Gaussian(torch.zeros(3, dtype=F64), COVARIANCE)
FIRST = Mask(torch.tensor([True, False, False]))
Y = torch.tensor([1.0], dtype=F64)
MEASURED = Measurement(FIRST, Y, 0.3)
GAIN = COVARIANCE[:, 0] / (1.0 + 0.09)
MEAN, STD = GAIN * Y, (COVARIANCE.diagonal() - GAIN * COVARIANCE[0]).sqrt()


def found(method: str, measurement: Measurement = MEASURED, n: int = 2000) -> PosteriorSamples:
    return posterior(PRIOR.under(SDE), measurement, method=method, n=n, seed=0, dtype=F64)


@pytest.mark.parametrize("method", ["auto", "twisted", "mmps", "tmpd"])
def test_methods_that_are_exact_for_this_problem_give_its_posterior(method: str) -> None:
    """Mean and standard deviation, within four standard errors of 2,000 samples."""
    result = found(method)
    assert ((result.mean - MEAN).abs() < 4 * STD / 2000**0.5 + 1e-3).all(), result.mean
    assert ((result.std - STD).abs() < 4 * STD / (2 * 2000) ** 0.5 + 2e-3).all(), result.std
    assert result.x.shape == (2000, 3) and result.mean.shape == (3,)


def test_the_interval_covers_what_it_says() -> None:
    low, high = found("mmps").interval(0.9)
    half = 1.6449 * STD
    torch.testing.assert_close(low, MEAN - half, rtol=0.0, atol=0.08)
    torch.testing.assert_close(high, MEAN + half, rtol=0.0, atol=0.08)
    with pytest.raises(ValueError, match=r"level: expected a number between 0 and 1, got 90"):
        found("mmps", n=10).interval(90)


@pytest.mark.parametrize(("n", "level"), [(19, 0.9), (30, 0.9), (30, 0.5), (400, 0.99)])
def test_an_interval_of_few_samples_covers_what_it_says(n: int, level: float) -> None:
    """On average over independent normal numbers; the plain quantiles of 30 samples hold 84 %."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(n, 4000, generator=generator, dtype=F64)
    low, high = replace(found("mmps", n=10), x=drawn).interval(level)
    inside = torch.special.ndtr(high) - torch.special.ndtr(low)
    error = float(inside.std()) / 4000**0.5
    # A straight line between the two outermost samples lies outside of the curved tail, so the
    # share is a little larger than it says.
    assert level - 4 * error < float(inside.mean()) < level + 0.01


@pytest.mark.parametrize(("n", "share"), [(4, "60%"), (18, "89%"), (1, "0%")])
def test_an_interval_of_too_few_samples_says_what_it_holds(n: int, share: str) -> None:
    result = found("mmps", n=n)
    with pytest.warns(UserWarning, match=rf"{n} samples span {share} .* not 90%; draw 19 or more"):
        low, high = result.interval(0.9)
    assert torch.equal(low, result.x.min(0).values) and torch.equal(high, result.x.max(0).values)


def test_the_evidence_is_that_of_the_closed_form() -> None:
    result, truth = found("auto"), ExactPosterior(PRIOR, SDE, MEASURED).log_evidence()
    closed = -0.5 * (1.0 / 1.09 + math.log(2 * math.pi * 1.09))
    assert abs(float(truth) - closed) < 1e-12
    assert result.log_evidence is not None and result.log_evidence_error is not None
    gap = abs(float(result.log_evidence) - closed)
    assert gap < 4 * float(result.log_evidence_error) + 0.01
    assert found("mmps", n=10).log_evidence is None


@pytest.mark.parametrize("method", ["twisted", "mmps", "dps"])
def test_several_measurements_are_several_posteriors(method: str) -> None:
    """Each row has the mean of its own measurement, and the runs have their own noise."""
    y = torch.tensor([[-2.0], [0.0], [2.0]], dtype=F64)
    several = Measurement(FIRST, noise=0.3)
    model = PRIOR.under(SDE)
    out = posterior(model, several, method=method, n=800, seed=0, cond={"y": y}, dtype=F64)
    assert out.x.shape == (3, 800, 3) and out.mean.shape == (3, 3) and out.several
    low, high = out.interval(0.8)
    assert low.shape == (3, 3) and (low < out.mean).all() and (high > out.mean).all()
    if method != "dps":
        assert (out.mean - y * GAIN).abs().max() < 5 * float(STD.max()) / 800**0.5
    assert not torch.equal(out.x[0] - out.mean[0], out.x[1] - out.mean[1])


def test_several_measurements_of_many_numbers_take_the_twist_of_the_variance() -> None:
    """Twenty numbers, each run with its own, beside the exact evidence of each."""
    prior = Gaussian(torch.zeros(20, dtype=F64), torch.eye(20, dtype=F64))
    y = torch.randn(2, 20, generator=torch.Generator().manual_seed(0), dtype=F64)
    several = Measurement(Identity(), noise=0.5)
    out = posterior(prior.under(SDE), several, n=500, seed=0, cond={"y": y}, dtype=F64)
    assert out.method == "twisted" and out.products == 100
    exact = ExactPosterior(prior, SDE, several).log_evidence(y)
    assert out.log_evidence is not None and out.log_evidence_error is not None
    gaps = (out.log_evidence - exact).abs()
    assert (gaps < 4 * out.log_evidence_error + 0.02).all(), gaps
    assert (out.mean - y / 1.25).abs().max() < 5 * (0.2**0.5) / 500**0.5 + 0.02
    holes = y.clone()
    holes[0, 3] = math.nan  # which that twist does not take: a product for each number is too dear
    out = posterior(prior.under(SDE), several, n=500, seed=0, cond={"y": holes}, dtype=F64)
    assert out.method == "mmps"
    assert (out.mean - holes.nan_to_num(0.0) / 1.25).abs().max() < 5 / 500**0.5
    assert abs(float(out.std[0, 3]) - 1.0) < 0.15 and (out.std[1] - 0.2**0.5).abs().max() < 0.1
    few = {"y": holes[:, :4]}
    four = Gaussian(torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64)).under(SDE)
    assert posterior(four, several, n=500, seed=0, cond=few, dtype=F64).method == "twisted"


def test_the_result_does_not_depend_on_the_batch() -> None:
    for method in ("twisted", "mmps"):
        whole, parts = (
            posterior(
                PRIOR.under(SDE), MEASURED, method=method, n=20, seed=3, batch_size=size, dtype=F64
            )
            for size in (None, 7)
        )
        torch.testing.assert_close(whole.x, parts.x, rtol=1e-10, atol=1e-10)
        assert whole.products == parts.products and whole.nfe == parts.nfe


def test_the_spread_of_one_sample_is_not_known() -> None:
    one = posterior(PRIOR.under(SDE), MEASURED, method="mmps", n=1, steps=3, seed=0)
    assert one.x.shape == (1, 3) and bool(one.std.isnan().all())


def test_what_does_not_fit_is_named_as_it_was_given() -> None:
    """With the number of posteriors, not that of all their samples."""
    prior, several = PRIOR.under(SDE), Measurement(FIRST, noise=0.3)
    y = torch.zeros(2, 1)
    cases: tuple[tuple[dict[str, object], str], ...] = (
        ({"y": torch.zeros(2, 2)}, r"cond\['y'\]: expected shape \(P, 1\), got .*\(2, 2\)"),
        ({"y": torch.zeros(1)}, r"cond\['y'\]: expected shape \(P, 1\), got .*\(1,\)"),
        ({"y": 1.0}, r"cond\['y'\]: expected a tensor of shape \(P, ...\)"),
        ({"y": y, "label": torch.zeros(3)}, r"cond\['label'\]: expected a tensor with leading 2"),
    )
    for cond, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            posterior(prior, several, n=2, cond=cond)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^y: expected shape \(1,\), got .*\(2,\)"):
        posterior(prior, Measurement(FIRST, torch.zeros(2), 0.3), n=2)
    with pytest.raises(ValueError, match="steps: expected a positive integer, got 0"):
        posterior(prior, MEASURED, n=2, steps=0)
    arrays = {"y": y.numpy()}
    assert posterior(prior, several, n=2, steps=3, cond=arrays).x.shape == (2, 2, 3)  # type: ignore[arg-type]


def test_a_measurement_without_noise_is_imposed() -> None:
    """By RePaint where it selects entries, else by the projection."""
    exact = found("auto", Measurement(FIRST, Y, 0.0), n=50)
    assert exact.method == "repaint" and bool((exact.x[:, 0] == 1.0).all())
    assert exact.nfe > 300  # every five steps are made ten times
    blur = Blur(torch.tensor([0.25, 0.5, 0.25], dtype=F64))
    y = torch.tensor([0.5, 0.2, -0.1], dtype=F64)
    projected = found("auto", Measurement(blur, y, 0.0), n=50)
    assert projected.method == "ddnm"
    assert (blur(projected.x) - y).abs().max() < 1e-8
    with pytest.raises(ValueError, match="noise: expected noise above 0 for this operator"):
        found("auto", Measurement(lambda x: x[:, :1], Y, 0.0), n=10)


# The choice.


def chosen(measurement: Measurement, count: int, n: int, **options: object) -> str:
    return choose(measurement, count, 64, n, **options).method  # type: ignore[arg-type]


def test_particles_are_taken_where_the_calls_suffice() -> None:
    wide = Measurement(Identity(), torch.zeros(400), 0.1)
    assert chosen(MEASURED, 1, 1000) == "twisted"
    assert choose(MEASURED, 1, 64, 1000).particles == 1000 * 400 // (100 * 2)
    assert choose(MEASURED, 4, 64, 1000).particles == 1000 * 400 // (100 * 5)
    assert choose(wide, 400, 64, 1000)[3:4] == ("variance",)
    assert choose(wide, 400, 64, 1000, method="twisted", variance_known=False).twist == "jacobian"
    assert choose(wide, 400, 784, 1000).method == "mmps"
    assert choose(wide, 16, 784, 1000).method == "mmps"
    assert choose(wide, 16, 784, 2000).method == "twisted"
    assert chosen(MEASURED, 1, 10) == "mmps"
    assert chosen(wide, 400, 10) == "mmps"
    assert chosen(MEASURED, 1, 10, calls=400 * 100) == "twisted"
    least = LEAST_PARTICLES * 100 * 2
    assert chosen(MEASURED, 1, 1, calls=least) == "twisted"
    assert chosen(MEASURED, 1, 1, calls=least - 1) == "mmps"


def test_other_measurements_get_methods_that_take_them() -> None:
    curved = Measurement(lambda x: x.square(), torch.ones(3), 0.1)
    counts = Measurement(Identity(), torch.ones(3), PoissonNoise(1.0))
    own = Measurement(Identity(), torch.ones(3), LogLikelihood(lambda x, y: -x.abs().sum(1)))
    for measurement in (curved, counts, own):
        for n in (10, 1000):
            assert choose(measurement, 3, 64, n)[:3] == ("daps", 100, 0)
        assert choose(measurement, 3, 64, 10, calls=60).steps == 60
        assert choose(measurement, 3, 64, 10, method="daps").steps == 400
        few, many = (choose(measurement, 3, 64, n, variance_known=False) for n in (10, 1000))
        assert few.method == "dps" and many[:4] == ("twisted", 100, 2000, "point")
        assert "needs a model that knows its data" in few.why and "all problems" not in many.why


def test_auto_is_close_where_the_operator_is_curved() -> None:
    """x_0^2 = 1 +- 0.3 for a standard normal x_0: `DPS` diverges, particles are 1.9 floors away.

    The posterior by quadrature: E |x_0| and its spread.
    """
    y = Measurement(lambda x: x.square(), torch.ones(1, dtype=F64), 0.3)
    prior = Gaussian(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64)).under(SDE)
    found = posterior(prior, y, n=1000, seed=0, dtype=F64)
    line = torch.linspace(-6, 6, 20_001, dtype=F64)
    weights = torch.softmax(-((line**2 - 1) ** 2) / (2 * 0.3**2) - line**2 / 2, 0)
    mean = float(weights @ line.abs())
    std = float((weights @ line.square() - mean**2).sqrt())
    size = found.x[:, 0].abs()
    assert abs(float(size.mean()) - mean) < 3 * std / math.sqrt(len(size))
    assert float(size.std()) == pytest.approx(std, rel=0.15)
    assert abs(float((found.x > 0).double().mean()) - 0.5) < 0.05
    assert found.method == "daps" and found.nfe == 101
    with pytest.raises(ValueError, match=r"solver: expected None for 'daps'.*such as 'dps'"):
        posterior(prior, y, n=2, solver="ancestral")
    assert "5 dimensions" in found.bias and "on most problems" in found.why


def test_the_steps_fit_into_the_calls() -> None:
    assert choose(MEASURED, 1, 64, 10, method="mmps", calls=90).steps == 30
    assert choose(MEASURED, 64, 64, 10, method="mmps", calls=1050).steps == 50
    assert choose(MEASURED, 64, 64, 10, method="mmps", calls=90).steps == 25
    assert choose(MEASURED, 1, 64, 10, method="dps", calls=60).steps == 30
    assert choose(MEASURED, 1, 64, 10, method="dps", steps=7).steps == 7
    assert choose(MEASURED, 1, 64, 10, method="dps", calls=10**6).steps == 100


def test_every_method_says_what_is_known_of_its_bias() -> None:
    for method in METHODS:
        if method != "auto":
            assert len(known_bias(method)) > 20
    assert "exact for Gaussian data" in known_bias("mmps")
    assert f"{BIAS['mmps'][0]:g} to {BIAS['mmps'][1]:g}" in known_bias("mmps")
    text = repr(found("mmps", n=10))
    assert "why: as it was asked for" in text and "bias: exact for Gaussian data" in text


def test_the_table_is_what_was_measured() -> None:
    """The constants and the pages hold what the results of the two benchmarks say."""
    curved = json.loads(posterior_curved.FILE.read_text(encoding="utf-8"))
    assert posterior_curved.bias(curved) == CURVED
    assert posterior_curved.PAGE.read_text(encoding="utf-8") == posterior_curved.page(curved)
    closer = {row: posterior_curved.closer(curved, row) for row in ("dps", "twisted")}
    assert min(closer.values()) > 0.85, closer  # the share of problems in which DAPS is
    found = json.loads(posterior_choice.FILE.read_text(encoding="utf-8"))
    assert posterior_choice.bias(found) == BIAS
    assert posterior_choice.PAGE.read_text(encoding="utf-8") == posterior_choice.page(found)
    for name, rows in found.items():  # what "auto" relies on
        mean = {row: posterior_choice.mean(problems, "ratio") for row, problems in rows.items()}
        others = [mean[row] for row in ("mmps", "pigdm", "tmpd", "ddrm", "dps", "daps")]
        if name.startswith("fashion"):  # 49 numbers in 784 dimensions
            assert mean["twisted, K = 256"] > min(others)
        else:
            assert mean["twisted, K = 256"] < 1.3 * min(others), name
            assert mean["twisted, K = 1000"] < min(others), name


def test_auto_beats_the_score_models_on_far_modes() -> None:
    """On two far modes the guided samples miss the weights of the modes, the particles do not."""
    means = torch.tensor([[-4.0, 0.0], [4.0, 0.0]], dtype=F64)
    prior = GaussianMixture(means, torch.tensor([0.3, 0.3], dtype=F64), torch.tensor([0.8, 0.2]))
    y = Measurement(Matrix(torch.tensor([[0.1, 1.0]], dtype=F64)), torch.zeros(1, dtype=F64), 1.0)
    sde = VPSDE(0.1, 40.0)
    right = ExactPosterior(prior, sde, y).posterior()
    share = float(torch.softmax(right.log_weights, 0)[1])
    shares = {
        method: float(
            (posterior(prior.under(sde), y, method=method, n=2000, seed=0, dtype=F64).x[:, 0] > 0)
            .double()
            .mean()
        )
        for method in ("auto", "dps")
    }
    assert abs(shares["auto"] - share) < 0.05, (shares, share)


def test_a_curved_operator_with_little_noise_is_followed() -> None:
    """|x_0| = 1 +- 0.1 of normal data: with steps of second order the mean of |x_0| was 0.7."""
    y = Measurement(lambda x: x.abs(), torch.ones(1, dtype=F64), 0.1)
    prior = Gaussian(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64)).under(SDE)
    found = posterior(prior, y, n=300, calls=100, seed=0, dtype=F64, method="dps")
    assert abs(float(found.x.abs().mean()) - 1.0) < 0.1


def test_a_run_that_diverges_says_so() -> None:
    """x_0^2 = 1 +- 0.1 is too sharp for DPS with 50 steps."""
    y = Measurement(lambda x: x.square(), torch.ones(1, dtype=F64), 0.1)
    prior = Gaussian(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64)).under(SDE)
    with pytest.warns(DataRangeWarning, match=r"method 'dps' diverged: .* take more steps"):
        posterior(prior, y, n=20, calls=100, seed=0, dtype=F64, method="dps")


# Errors.


class Unknown(ScoreModel):
    """A model that knows nothing of its data."""

    def __init__(self) -> None:
        super().__init__()
        self.sde = SDE
        self.inner = PRIOR.under(SDE)

    def predict(self, node: object, x: Tensor, cond: object = None) -> object:  # type: ignore[override]
        return self.inner.predict(node, x)  # type: ignore[arg-type]


def test_bad_arguments_are_named() -> None:
    model = PRIOR.under(SDE)
    with pytest.raises(ValueError, match=r"method: .*mmps"):
        posterior(model, MEASURED, method="mmsp")
    with pytest.raises(ValueError, match="n: expected"):
        posterior(model, MEASURED, n=0)
    with pytest.raises(ValueError, match="calls: expected"):
        posterior(model, MEASURED, calls=-1)
    with pytest.raises(ValueError, match="shape: expected a shape"):
        posterior(Unknown(), MEASURED, n=10)
    with pytest.raises(ValueError, match="cond: expected the measurement 'y'"):
        posterior(model, Measurement(FIRST, noise=0.1), n=10)
    with pytest.raises(TypeError, match="operator: expected a LinearOperator, as MMPS needs"):
        posterior(model, Measurement(lambda x: x.square(), torch.ones(3), 0.1), method="mmps")
    with pytest.raises(ValueError, match="noise: expected noise 0, since DDNM"):
        posterior(model, MEASURED, method="ddnm", n=10)
    assert posterior(Unknown(), MEASURED, (3,), method="mmps", n=5, seed=0).x.shape == (5, 3)
