"""Faults are planted in exact models, and the doctor names them with the number that they have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Preconditioned,
    ScoreModel,
    SubVPSDE,
)
from scoresde.data import Data, summarise
from scoresde.doctor import Report, diagnose, reference
from scoresde.doctor.prior import mended
from scoresde.doctor.probe import eps_of, probe_of
from scoresde.doctor.reference import LinearDenoiser
from scoresde.doctor.stein import stein_findings
from scoresde.nets import MLP
from scoresde.node import Node
from scoresde.prediction import Prediction

VP = VPSDE()
COVARIANCE = torch.tensor([[1.2, 0.5], [0.5, 0.6]], dtype=torch.float64)
GAUSS = Gaussian(torch.tensor([0.2, -0.1], dtype=torch.float64), COVARIANCE)
MIXTURE = GaussianMixture(
    torch.tensor([[-1.2, 0.4], [1.1, 0.7], [0.1, -1.1]], dtype=torch.float64),
    torch.tensor([0.05, 0.02, 0.08], dtype=torch.float64),
)
DATA = MIXTURE.sample(2000, seed=1)
EXACT = MIXTURE.under(VP)


class Changed(ScoreModel):
    """A model whose predictions are changed."""

    def __init__(self, inner: ScoreModel, change: Callable[[Prediction], Prediction]) -> None:
        super().__init__()
        self.inner, self.change, self.sde = inner, change, inner.sde

    def predict(
        self, node: Node, x: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Prediction:
        return self.change(self.inner.predict(node, x, cond))


def scaled(factor: float) -> ScoreModel:
    return Changed(EXACT, lambda p: Prediction(p.x, p.node, factor * p.score, "score"))


def named(report: Report) -> str:
    assert report.first is not None
    return report.first.name


@pytest.mark.parametrize(
    "sde", [VP, SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE()], ids=lambda s: repr(s)[:6]
)
@pytest.mark.parametrize("truth", [GAUSS, MIXTURE], ids=["gaussian", "mixture"])
def test_an_exact_model_is_healthy(sde: SDE, truth: Gaussian | GaussianMixture) -> None:
    report = diagnose(truth.under(sde), truth.sample(1500, seed=3), n=300)
    assert report.findings == (), str(report)


def test_the_loss_is_that_of_the_closed_form() -> None:
    """For a Gaussian the loss of eps is tr(alpha^2 C (alpha^2 C + sigma^2)^-1) / D."""
    report = diagnose(GAUSS.under(VP), GAUSS.sample(3000, seed=3), n=1500)
    variances = torch.linalg.eigvalsh(COVARIANCE)
    total = 0.0
    for row in report.levels:
        node = VP.at(row["t"])
        signal = node.alpha**2 * variances
        exact = float((signal / (signal + node.sigma**2)).mean())
        assert row["loss"] == pytest.approx(exact, abs=5 * math.sqrt(exact / 1500))
        assert row["gaussian"] == pytest.approx(row["loss"], abs=0.01)
        assert row["length"] == pytest.approx(1 - exact, abs=0.12)
        assert abs(row["slope"] - 1) < 5 * row["slope_error"]
        total += exact
    width = report.levels[1]["log_snr"] - report.levels[0]["log_snr"]
    assert report.loss == pytest.approx(total * width, rel=0.03)
    ends = VP.log_snr(VP.T), VP.log_snr(VP.t_end)
    assert len(report.levels) * width == pytest.approx(ends[1] - ends[0])
    assert report.levels[0]["log_snr"] == pytest.approx(ends[0] + width / 2)


@pytest.mark.parametrize("factor", [0.9, 1.1, 2.0])
def test_the_scale_is_found_with_its_factor(factor: float) -> None:
    finding = diagnose(scaled(factor), DATA)["scale"]
    assert finding.number == pytest.approx(factor, abs=0.02)
    assert finding.severity == "error" and finding.share == 1.0


def test_the_damage_of_a_scale_is_that_of_the_closed_form() -> None:
    """A factor c costs (c - 1)^2 E|eps_theta|^2, and E|eps_theta|^2 / D = 1 - loss."""
    report = diagnose(Changed(GAUSS.under(VP), _by(1.5)), GAUSS.sample(3000, seed=3), n=1500)
    variances = torch.linalg.eigvalsh(COVARIANCE)
    width = report.levels[1]["log_snr"] - report.levels[0]["log_snr"]
    lengths = []
    for row in report.levels:
        node = VP.at(row["t"])
        noise = node.sigma**2 / (node.alpha**2 * variances + node.sigma**2)
        lengths.append(float(noise.mean()))
    assert report["scale"].damage == pytest.approx(0.25 * sum(lengths) * width, rel=0.03)


def _by(factor: float) -> Callable[[Prediction], Prediction]:
    return lambda p: Prediction(p.x, p.node, factor * p.score, "score")


@pytest.mark.parametrize("factor", [-1.0, -0.5])
def test_a_wrong_sign_of_the_score_is_named(factor: float) -> None:
    assert named(diagnose(scaled(factor), DATA)) == "sign"


def test_a_wrong_sign_of_the_output_is_named() -> None:
    model = Changed(EXACT, lambda p: Prediction(p.x, p.node, -p.v, "v"))
    first = diagnose(model, DATA).first
    assert first is not None and first.name == "sign" and "output (v)" in first.sentence


@pytest.mark.parametrize("kind", ["x0", "eps", "flow", "score"])
def test_a_wrong_coordinate_is_named_with_the_right_one(kind: str) -> None:
    model = Changed(EXACT, lambda p: Prediction(p.x, p.node, p.v, kind))
    first = diagnose(model, DATA).first
    assert first is not None and first.name == "coordinate"
    assert f"read as {kind}, but v fits" in first.sentence


@pytest.mark.parametrize("factor", [0.5, 1.5, 3.0])
def test_a_wrong_time_is_named(factor: float) -> None:
    def score(t: Tensor, x: Tensor) -> Tensor:
        return EXACT.score(min(factor * float(t), 1.0), x)

    assert named(diagnose(FunctionScore(VP, score), DATA)) == "time"


def test_time_that_runs_backwards_is_named() -> None:
    model = FunctionScore(VP, lambda t, x: EXACT.score(1.0 - float(t), x))
    first = diagnose(model, DATA).first
    assert first is not None and first.name == "time" and "T - t" in first.sentence


def test_a_function_of_steps_is_named() -> None:
    def score(t: Tensor, x: Tensor) -> Tensor:
        return EXACT.score(min(max(float(t) / 1000.0, 1e-5), 1.0), x)

    first = diagnose(FunctionScore(VP, score), DATA).first
    assert first is not None and first.name == "time" and "1e+03 times" in first.sentence


def test_dropout_that_is_left_on_is_named_and_the_mode_is_kept() -> None:
    model = Preconditioned(_Exact(nn.Dropout(0.1)), VP).train()
    first = diagnose(model, DATA).first
    assert first is not None and first.name == "dropout" and "Dropout" in first.sentence
    assert first.severity == "error" and first.damage > 0.03  # what eval mode saves
    assert model.training
    assert diagnose(model.eval(), DATA).healthy


@pytest.mark.parametrize("share", [0.3, 0.05])
def test_randomness_that_eval_mode_leaves_is_named_with_the_variance_that_it_adds(
    share: float,
) -> None:
    """Dropout on v adds alpha^2 v^2 share / (1 - share) to the squared error of eps."""
    drop = torch.nn.functional.dropout
    model = Changed(EXACT, lambda p: Prediction(p.x, p.node, drop(p.v, share), "v"))
    probe = probe_of(EXACT, DATA, None, 1e-3, rows=512, count=12, seed=0, batch_size=256)
    added = sum(p.node.alpha**2 * float(p.v.square().mean()) for p in probe.predictions)
    for seed in range(2):
        torch.manual_seed(seed)
        first = diagnose(model, DATA).first
        assert first is not None and first.name == "dropout" and "eval mode too" in first.sentence
        wanted = added * probe.width * share / (1 - share)
        assert first.damage == pytest.approx(wanted, rel=0.1)


class _Exact(nn.Module):
    """A network that returns the exact v, through a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        made = EXACT.predict(VP.at(t, like=x), x).v
        return self.layer(self.weight * made)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (0.3, 0.0), (1.0, 2.0)])
def test_data_in_other_units_are_named(scale: float, shift: float) -> None:
    assert named(diagnose(EXACT, DATA * scale + shift)) == "units"


def test_wide_data_are_named_where_the_model_knows_none() -> None:
    wide = Gaussian(10 * GAUSS.mean, 100 * COVARIANCE)
    model = FunctionScore(VP, wide.under(VP).score)
    assert named(diagnose(model, wide.sample(1000))) == "units"


@pytest.mark.parametrize(
    ("sde", "field"), [(VPSDE(0.1, 4.0), "beta_max"), (VESDE(0.01, 3.0), "sigma_max")]
)
def test_a_short_schedule_is_named_with_what_mends_it(sde: VPSDE | VESDE, field: str) -> None:
    first = diagnose(MIXTURE.under(sde), DATA).first
    size = float(DATA.square().mean().sqrt())
    assert first is not None and first.name == "prior"
    assert first.number == pytest.approx(sde.prior_gap(size), rel=0.05)
    assert first.damage == first.number
    assert f"{field} = " in first.remedy


def test_what_mends_the_prior_leaves_half_of_the_tolerance() -> None:
    found = mended(VPSDE(0.1, 4.0), 2.0)
    assert found is not None
    value = float(found.removeprefix("beta_max = "))
    assert VPSDE(0.1, value).prior_gap(2.0) == pytest.approx(0.0025, rel=0.03)
    assert mended(CosineSDE(), 1.0) is None


def test_a_late_end_is_named_with_the_variance_that_it_costs() -> None:
    report = diagnose(GAUSS.under(VP), GAUSS.sample(2000, seed=3), t_end=0.2)
    node, variances = VP.at(0.2), torch.linalg.eigvalsh(COVARIANCE)
    noise = (node.sigma / node.alpha) ** 2
    lost = float((noise * variances / (variances + noise)).mean() / variances.mean())
    assert named(report) == "t_end"
    assert report["t_end"].number == pytest.approx(lost, rel=0.1)


def test_nan_is_an_error_with_its_time() -> None:
    model = FunctionScore(VP, lambda t, x: x * (math.nan if t < 0.1 else -1.0))
    report = diagnose(model, DATA)
    assert named(report) == "not_finite"
    assert report["not_finite"].severity == "error"


def test_a_constant_column_and_copies_are_warned_of() -> None:
    x = torch.cat([DATA, torch.full((len(DATA), 1), 2.0)], 1)
    flat = Gaussian(torch.tensor([0.0, 0.0, 2.0]), torch.tensor([1.0, 1.0, 1e-12]))
    assert "column 2" in diagnose(flat.under(VP), x)["constant"].sentence
    copies = diagnose(EXACT, torch.cat([DATA[:500], DATA[:500]]))["copies"]
    assert copies.number == pytest.approx(0.5)
    assert named(diagnose(EXACT, torch.ones(100, 2))) == "constant"


def test_an_untrained_network_is_named() -> None:
    model = FunctionScore(VP, lambda t, x: -x)
    assert named(diagnose(model, DATA)) == "untrained"


def test_a_loss_above_that_of_a_gaussian_is_a_poor_fit_though_no_level_stands_out() -> None:
    """The error of 0.02 at each level is below what is told of one; all together are 0.2 nats."""

    def rough(p: Prediction) -> Prediction:
        wave = (40.0 * p.x.double()).sin()  # without a mean, a sign, a scale
        return Prediction(p.x, p.node, p.eps + 0.2 * wave, "eps")

    narrow = Gaussian(torch.zeros(2).double(), torch.tensor([[1.0, 0.99], [0.99, 1.0]]).double())
    normal = narrow.sample(2000, seed=3)
    found = diagnose(Changed(narrow.under(VP), rough), normal)
    first = found.first
    assert first is not None and first.name == "poor_fit", str(found)
    assert "above that of a Gaussian" in first.sentence and first.number == found.loss
    assert first.number - first.reference == pytest.approx(first.damage)
    assert diagnose(narrow.under(VP), normal).healthy


def test_data_of_another_size_than_the_schedule_explain_what_is_wrong_with_their_model() -> None:
    """Levels of 0 to 255: the model knows its data, which do not become noise under the VP-SDE."""
    x = 127.5 * (DATA + 1.0)
    net = MLP(2, width=16)
    model = Preconditioned(net, VP)
    model.data = summarise(x)
    found = diagnose(model, x)
    assert named(found) == "units" and "made for mean 0 and deviation 1" in found.first.sentence
    assert all(finding.severity == "note" for finding in found.findings[1:])


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
@pytest.mark.parametrize("seed", range(3))
def test_a_random_network_is_untrained_however_it_is_best_read(kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    net = MLP(2, width=16)
    for weight in net.parameters():  # the last layer starts at 0, where a network is a Gaussian
        weight.data = torch.randn_like(weight) * max(weight.shape) ** -0.5
    assert named(diagnose(Preconditioned(net, VP, kind), DATA)) == "untrained"


def test_a_model_that_fails_at_low_noise_is_named() -> None:
    model = Changed(
        EXACT, lambda p: Prediction(p.x, p.node, p.v if p.node.t > 0.1 else 0.0 * p.v, "v")
    )
    first = diagnose(model, DATA).first
    assert first is not None and first.name == "low_noise"
    assert first.number > first.reference and "worse than itself" in first.sentence


def test_a_biased_score_breaks_the_first_identity_of_stein() -> None:
    model = Changed(EXACT, lambda p: Prediction(p.x, p.node, p.eps + 0.3, "eps"))
    finding = diagnose(model, DATA)["stein_mean"]
    width = (VP.log_snr(VP.t_end) - VP.log_snr(1.0)) / 12
    assert finding.number == pytest.approx(0.3, abs=0.05)
    assert finding.damage == pytest.approx(12 * width * 0.09, rel=0.1)
    probe = probe_of(model, DATA, None, VP.t_end, rows=800, count=12, seed=0, batch_size=800)
    symptom = stein_findings(probe, probe.eps)[0]
    assert symptom.damage == pytest.approx(12 * width * 0.09, rel=0.1)


def test_a_pull_that_is_too_weak_breaks_the_second_identity_of_stein() -> None:
    def weaker(p: Prediction) -> Prediction:
        x = p.x.double()
        return Prediction(p.x, p.node, p.eps - 0.1 * p.node.sigma * x, "eps")

    finding = diagnose(Changed(EXACT, weaker), DATA)["stein_pull"]
    # The largest of the levels in standard errors; at each the score is more by 0.1 x.
    spread = float(DATA.square().mean())
    numbers = [-1 + 0.1 * (VP.alpha(t) ** 2 * spread + VP.sigma(t) ** 2) for t in (0.3, 1.0)]
    assert min(numbers) - 0.03 < finding.number < max(numbers) + 0.03


@pytest.mark.parametrize("data", ["pair", "data"])
def test_shuffled_labels_are_named(data: str) -> None:
    model, x, label = _conditional()
    assert diagnose(model, (x, {"label": label})).healthy
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    shuffled = {"label": label[order]}
    given = (x, shuffled) if data == "pair" else Data(x, cond=shuffled, classes=3)
    assert named(diagnose(model, given)) == "labels"


def test_classes_of_one_mean_and_different_shape_have_labels_that_say_something() -> None:
    """Variances of 0.1 and 2 around 0: the class means are no farther apart than by chance."""
    label = torch.arange(1500) % 2
    variances = torch.tensor([0.1, 2.0], dtype=torch.float64)
    noise = torch.randn(1500, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x = variances[label].sqrt()[:, None] * noise
    x -= torch.stack([x[label == k].mean(0) for k in (0, 1)])[label]

    def score(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return -x / (VP.alpha(t) ** 2 * variances[label][:, None] + VP.sigma(t) ** 2)

    assert diagnose(FunctionScore(VP, score), (x, {"label": label})).healthy
    whole = GaussianMixture(torch.zeros(2, 2, dtype=torch.float64), variances).under(VP)
    blind = FunctionScore(VP, lambda t, x, label: whole(t, x).score)
    assert named(diagnose(blind, (x, {"label": label}))) == "labels"


def test_a_model_that_ignores_its_labels_is_named() -> None:
    model, x, label = _conditional()
    model.ignore = True
    first = diagnose(model, (x, {"label": label})).first
    assert first is not None and first.name == "labels" and "does not use" in first.sentence
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    first = diagnose(model, (x, {"label": label[order]})).first
    assert first is not None and first.name == "labels" and "say nothing" in first.sentence


def test_the_kernel_estimate_is_the_score_of_the_best_of_its_mixtures() -> None:
    probe = probe_of(EXACT, DATA, None, 1e-3, rows=200, count=5, seed=0, batch_size=64)
    rows, centres = probe.x0, probe.others
    unit = torch.cdist(rows, centres).amin(1).square().mean() / 2
    mixtures = [
        GaussianMixture(centres, (w**2 * unit).expand(len(centres))) for w in reference.WIDTHS
    ]
    best = max(mixtures, key=lambda one: float(one.log_prob(rows).mean()))
    known = [eps_of(one) for one in probe.predict(best.under(VP))]
    found = reference.kernel_eps(probe)
    assert len(centres) == 1800 and best is not mixtures[0]
    for one, other in zip(found, known, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_a_first_look_rules_out_what_is_worse_and_nothing_that_is_better() -> None:
    probe = probe_of(scaled(1.2), DATA, None, 1e-3, rows=256, count=12, seed=0, batch_size=64)
    assert probe.may_gain(EXACT) and not probe.may_gain(scaled(1.5))
    seen, known = probe.glance(EXACT), probe.gain([eps_of(p) for p in probe.predict(EXACT)])
    assert abs(seen.mean - known.mean) < 4 * seen.error


def test_a_fitted_denoiser_expects_the_loss_of_its_covariance() -> None:
    """tr(alpha^2 C (alpha^2 C + sigma^2)^-1) / D, also with the directions outside of the fit."""
    data = GAUSS.sample(2000, seed=2)
    fitted, node = LinearDenoiser.fit(data), VP.at(0.2)
    signal = node.alpha**2 * torch.linalg.eigvalsh(torch.cov(data.T))
    assert fitted.expected(node) == pytest.approx(
        float((signal / (signal + node.sigma**2)).mean()), rel=2e-3
    )
    wide = torch.randn(40, 200, generator=torch.Generator().manual_seed(0))  # fewer rows than D
    assert LinearDenoiser.fit(wide).expected(node) == pytest.approx(
        node.alpha**2 / (node.alpha**2 + node.sigma**2), rel=0.05
    )


class _OfClasses(ScoreModel):
    """The exact model of each class of a mixture."""

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        self.sde, self.ignore = VP, False
        self.whole = mixture.under(VP)
        self.parts = [
            GaussianMixture(mixture.means[k : k + 1], mixture.covariances[k : k + 1]).under(VP)
            for k in range(len(mixture.means))
        ]

    @property
    def nulls(self) -> Mapping[str, object]:
        return {"label": -1}

    def predict(
        self, node: Node, x: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Prediction:
        value = self.whole.predict(node, x).v
        label = None if cond is None or self.ignore else cond["label"]
        for k, part in enumerate(self.parts if label is not None else ()):
            value = torch.where((label == k)[:, None], part.predict(node, x).v, value)
        return Prediction(x, node, value, "v")


def _conditional() -> tuple[_OfClasses, Tensor, Tensor]:
    label = torch.randint(3, (1500,), generator=torch.Generator().manual_seed(4))
    noise = torch.randn(1500, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x = MIXTURE.means[label] + MIXTURE.covariances[label].sqrt()[:, None] * noise
    return _OfClasses(MIXTURE), x, label


def test_buffers_that_were_averaged_are_named() -> None:
    raw = MIXTURE.under(VP)
    averaged = deepcopy(raw)
    for buffer in averaged.buffers():
        buffer.mul_(0.8)
    first = diagnose(averaged, DATA, raw=raw).first
    assert first is not None and first.name == "average" and "buffers" in first.sentence
    assert diagnose(MIXTURE.under(VP), DATA, raw=raw).healthy


def test_an_average_that_remembers_the_start_is_named() -> None:
    raw = Preconditioned(_Exact(nn.Identity()), VP)
    averaged = Preconditioned(_Exact(nn.Identity()), VP)
    with torch.no_grad():
        averaged.net.weight.fill_(0.5)
    first = diagnose(averaged, DATA, raw=raw).first
    assert first is not None and first.name == "average" and "raw weights" in first.sentence


def test_findings_do_not_depend_on_the_batch_size_and_nothing_is_changed() -> None:
    state, data = torch.get_rng_state(), DATA.clone()
    one, other = (diagnose(scaled(1.2), DATA, batch_size=size) for size in (64, 500))
    assert one["scale"].number == pytest.approx(other["scale"].number, rel=1e-9)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(DATA, data)


def test_images_are_examined_as_vectors_are() -> None:
    truth = Gaussian(torch.zeros(16), 0.5 * torch.eye(16) + 0.2)
    x = truth.sample(800).reshape(-1, 1, 4, 4).float()
    assert diagnose(truth.under(VP), x).healthy
    assert named(diagnose(Changed(truth.under(VP), _by(1.3)), x)) == "scale"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: diagnose(None, DATA), TypeError, "model: expected a ScoreModel"),
        (lambda: diagnose(EXACT, DATA, raw=3), TypeError, "raw: expected a ScoreModel"),
        (lambda: diagnose(EXACT, "moons"), TypeError, "data: expected samples"),
        (lambda: diagnose(EXACT, DATA[:20]), ValueError, "data: expected at least 64 samples"),
        (lambda: diagnose(EXACT, DATA * math.nan), ValueError, "x: expected finite numbers"),
        (lambda: diagnose(EXACT, DATA, t_end=1.0), ValueError, "t_end: expected a time below T"),
        (lambda: diagnose(EXACT, DATA, n=0), ValueError, "n: expected a positive integer"),
        (lambda: diagnose(EXACT, DATA, levels=0), ValueError, "levels: expected"),
        (lambda: diagnose(EXACT, DATA, batch_size=0), ValueError, "batch_size: expected"),
        (
            lambda: diagnose(FunctionScore(SDE(lambda t, x: -x, lambda t: 1.0), _grad), DATA),
            TypeError,
            "model.sde: expected an AffineSDE",
        ),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def _grad(t: Tensor, x: Tensor) -> Tensor:
    return -x
