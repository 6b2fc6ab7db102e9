"""One object of every public class: its text is short, and its table in a notebook well formed."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
import torch
from test_notebook import Reader
from torch import Tensor, nn

import scoresde
from scoresde import (
    DDPM,
    EMA,
    SDE,
    VPSDE,
    ClassifierFree,
    Empirical,
    FokkerPlanck,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Grid,
    LinearSDE,
    Measurement,
    Preconditioned,
    Quantisation,
    ReverseSampler,
    ReverseSDE,
    Trainer,
    TwistedSampler,
    calibrate,
    compare,
    discrete_log_prob,
    elbo,
    encode,
    log_prob,
    sample_to,
)
from scoresde._html import Shown
from scoresde.adapters import Called, ScheduleSDE, to_diffusers
from scoresde.analytic_start import AnalyticStart
from scoresde.columns import Category, Number, TableScaling
from scoresde.comparison import Reference
from scoresde.conditioned import Conditioned
from scoresde.data import ArrayRows, Data, LazyData, ScaledRows, load_data, moments
from scoresde.ddpm import BoundTerms, ChainSDE, ChainTime
from scoresde.doctor import diagnose, split_error, transport_gap
from scoresde.export import Exported
from scoresde.guidance import AutoGuidance, ClassifierGuided, NoiseClassifier, Scale, Tempered
from scoresde.measurement import (
    Blur,
    Fourier,
    GaussianNoise,
    Identity,
    Linear,
    LogLikelihood,
    Mask,
    Matrix,
    PoissonNoise,
    Radon,
    SuperResolution,
)
from scoresde.measurement import Denoised as DenoisedState
from scoresde.metrics import (
    METRICS,
    FeatureMoments,
    Judge,
    Pair,
    SubsetMean,
    TwoSampleTest,
    class_balance,
    compare_sets,
    mmd,
    prdc,
)
from scoresde.nets import MLP, FourierFeatures, TimeEmbedding, UNet, UViT
from scoresde.noise import BrownianPath, Independent, PathOnGrid
from scoresde.options import Divergence, Loss, Table
from scoresde.posterior import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    MMPS,
    TMPD,
    ExactPosterior,
    PiGDM,
    RePaint,
    posterior,
)
from scoresde.process import ExtendedReverse, ForwardSDE
from scoresde.smc import CorrectedGuidance, flow_samples, reweight
from scoresde.solvers import DPMSolverV3, EulerMaruyama, Langevin, PredictorCorrector, Statistics
from scoresde.summary import ConditionSummary
from scoresde.training import (
    Callback,
    PowerEMA,
    RunFolder,
    TensorBoard,
    Update,
    train_classifier,
)

VP = VPSDE()
NORMAL = Gaussian(torch.zeros(2), torch.ones(2))
EXACT = NORMAL.under(VP)
NET = Preconditioned(MLP(2, width=8), VP)
LABELLED = Preconditioned(MLP(2, width=8, classes=2), VP)
X = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
Y = torch.arange(80) % 2
SEEN = Measurement(Mask(torch.tensor([True, False])), torch.zeros(1), 0.1)
SURE = Measurement(Mask(torch.tensor([True, False])), torch.zeros(1), 0.0)
SAMPLER = ReverseSampler(VP, EXACT, "ddim", steps=5)
LEVELS = Quantisation(8)


def rate(t: Tensor) -> float:
    return -1.0


def drift(t: Tensor, x: Tensor) -> Tensor:
    return -x


OBJECTS: dict[str, Callable[[Path], object]] = {
    "sde": lambda _: VP,
    "sde of functions": lambda _: SDE(drift, lambda t: 1.0),
    "linear sde": lambda _: LinearSDE(rate, lambda t: 1.0),
    "sde of a schedule": lambda _: ScheduleSDE(lambda t: (1 - t, t), 0.9),
    "sde of a chain": lambda _: ChainSDE([0.1, 0.2, 0.5]),
    "chain": lambda _: DDPM.cosine(10),
    "chain time": lambda _: ChainTime("i-1", 10),
    "terms": lambda _: BoundTerms(X[:, 0], X[:4], X[:, 1]),
    "node": lambda _: VP.at(0.5),
    "nodes": lambda _: VP.at(X[:, 0].abs().clamp(0.1, 1.0), X),
    "plain node": lambda _: SDE(drift, lambda t: 1.0).at(0.5),
    "grid": lambda _: Grid.of(torch.linspace(1.0, 0.001, 100).tolist()),
    "schedule": lambda _: SAMPLER.plan.schedule,
    "plan": lambda _: SAMPLER.plan,
    "sampler": lambda _: SAMPLER,
    "solution": lambda _: SAMPLER.solve((4, 2), seed=0),
    "codes": lambda _: encode(VP, EXACT, X),
    "shards": lambda path: sample_to(SAMPLER, path / "shards", 8, (2,)),
    "reverse": lambda _: ReverseSDE(VP, NET, cond={"label": Y}),
    "forward": lambda _: ForwardSDE(VP),
    "extended": lambda _: ExtendedReverse(VP),
    "prediction": lambda _: EXACT(0.5, X),
    "function": lambda _: FunctionScore(VP, drift),
    "network": lambda _: NET,
    "exact": lambda _: EXACT,
    "gaussian": lambda _: NORMAL,
    "mixture": lambda _: GaussianMixture(X[:3], torch.ones(3)),
    "empirical": lambda _: Empirical(X),
    "start": lambda _: AnalyticStart(NET, EXACT, above=0.9),
    "conditioned": lambda _: Conditioned(LABELLED, {"label": torch.tensor(1)}),
    "free": lambda _: ClassifierFree(LABELLED, 2.0),
    "guided": lambda _: ClassifierGuided(NET, NoiseClassifier(VP, (2,), 2), 2.0),
    "auto": lambda _: AutoGuidance(NET, NET, 2.0, interval=(0.1, 1.0)),
    "tempered": lambda _: Tempered(EXACT, 1.2),
    "scale": lambda _: Scale(lambda t: 2.0),
    "noise classifier": lambda _: NoiseClassifier(VP, (2,), 2),
    "trained classifier": lambda _: train_classifier(
        NoiseClassifier(VP, (2,), 2, width=8), X, Y, steps=2
    ),
    "calls": lambda _: Called(drift),
    "scheduler": lambda _: to_diffusers(torch.linspace(0.99, 0.01, 10), "ddim", predicts="eps"),
    "measurement": lambda _: SEEN,
    "mask": lambda _: SEEN.operator,
    "identity": lambda _: Identity(),
    "blur": lambda _: Blur(torch.ones(2)),
    "fourier": lambda _: Fourier(torch.tensor([True, False])),
    "matrix": lambda _: Matrix(torch.eye(2)),
    "linear": lambda _: Linear(lambda x: x, adjoint=lambda x: x, shape=(2,)),
    "radon": lambda _: Radon(8, 4),
    "super-resolution": lambda _: SuperResolution(2, dims=1),
    "composition": lambda _: Identity() @ SEEN.operator,
    "gaussian noise": lambda _: GaussianNoise(0.1),
    "poisson noise": lambda _: PoissonNoise(0.1),
    "own likelihood": lambda _: LogLikelihood(lambda x, y: x.sum(1)),
    "denoised state": lambda _: DenoisedState.of(EXACT, VP.at(0.5), X, None),
    "posterior": lambda _: posterior(EXACT, SEEN, (2,), n=8, calls=10, seed=0),
    "posteriors": lambda _: posterior(EXACT, SEEN, (2,), n=8, method="twisted", calls=40, seed=0),
    "dps": lambda _: DPS(NET, SEEN),
    "pigdm": lambda _: PiGDM(EXACT, SEEN),
    "mmps": lambda _: MMPS(NET, SEEN),
    "tmpd": lambda _: TMPD(NET, SEEN),
    "ddrm": lambda _: DDRM(NET, SEEN),
    "ddnm": lambda _: DDNM(NET, SURE),
    "daps": lambda _: DAPS(EXACT, SEEN),
    "repaint": lambda _: RePaint(SURE),
    "exact posterior": lambda _: ExactPosterior(NORMAL, VP, SEEN),
    "twisted": lambda _: TwistedSampler(EXACT, SEEN, particles=8, steps=5),
    "particles": lambda _: TwistedSampler(EXACT, SEEN, particles=8, steps=5).sample((4, 2)),
    "corrected": lambda _: CorrectedGuidance(ClassifierFree(LABELLED, 2.0), particles=8, steps=5),
    "importance": lambda _: reweight(EXACT, SEEN, *flow_samples(EXACT, 50, (2,))),
    "statistics": lambda _: Statistics.from_moments(VP, (0.0, 1.0), (1.0, 0.5)),
    "v3": lambda _: DPMSolverV3(Statistics.from_moments(VP, (0.0, 1.0), (1.0, 0.5))),
    "langevin": lambda _: Langevin(step=lambda t: 0.1),
    "brownian path": lambda _: BrownianPath(0, VP, eta=lambda t: 1.0),
    "independent": lambda _: Independent(0),
    "path on a grid": lambda _: PathOnGrid(0, VP, torch.linspace(1.0, 0.01, 50).tolist()),
    "log-likelihood": lambda _: log_prob(EXACT, X[:4]),
    "bound": lambda _: elbo(EXACT, X[:4], decoder="gaussian", steps=4),
    "bits": lambda _: discrete_log_prob(
        EXACT, LEVELS.encode(torch.zeros(2, 2, dtype=torch.long)), LEVELS
    ),
    "equation": lambda _: FokkerPlanck(VP, [(-6.0, 6.0, 60)]),
    "density": lambda _: FokkerPlanck(VP, [(-6.0, 6.0, 60)]).evolve(
        Gaussian(torch.zeros(1), torch.ones(1)), 0.0, 0.01
    ),
    "calibration": lambda _: calibrate(
        ReverseSDE(VP, EXACT, 0.0), (2,), steps=3, trajectories=16, iterations=2
    ),
    "comparison": lambda _: compare(VP, EXACT, (32, 2), solvers=("ddim",), steps=(3, 4), rounds=1),
    "reference": lambda _: Reference(data=X),
    "data": lambda _: load_data("moons"),
    "rows": lambda _: ArrayRows(X.numpy()),
    "scaled rows": lambda _: ScaledRows(ArrayRows(X.numpy()), Data(X).standardised().scaling),
    "lazy data": lambda _: LazyData(ArrayRows(X.numpy()), name="<b>points</b>"),
    "moments": lambda _: moments(Data(X), covariance=True),
    "scaling": lambda _: Data(X).standardised().scaling,
    "summary": lambda _: Trainer(Preconditioned(MLP(2, width=8), VP), X, steps=1).fit().data,
    "table": lambda _: TableScaling((Number("a", 0.0, 1.0), Category("b", ("x", "y")))),
    "report": lambda _: diagnose(FunctionScore(VP, lambda t, x: 2 * x), X),
    "finding": lambda _: diagnose(FunctionScore(VP, lambda t, x: 2 * x), X).findings[0],
    "split": lambda _: split_error(SAMPLER, NORMAL, n=100, fine_steps=10),
    "gap": lambda _: transport_gap((X[:40], X[40:]), batches=2),
    "exported": lambda path: Exported(
        path / "net.onnx", "onnx", "x0", 1e-7, 16, {"note": "x" * 400}
    ),
    "metrics": lambda _: compare_sets(X, X[:60], metrics=("energy", "precision")),
    "measured": lambda _: compare_sets(X, X[:60], metrics=("energy",))["energy"],
    "metric": lambda _: METRICS["energy"],
    "pair": lambda _: Pair(X, X, 1.0, 5, 0),
    "balance": lambda _: class_balance(Y, 2),
    "features": lambda _: FeatureMoments.of(X),
    "estimate": lambda _: mmd(X, X[:60]),
    "subsets": lambda _: SubsetMean(0.1, 0.01, 10, 50),
    "prdc": lambda _: prdc(X, X[:60]),
    "two samples": lambda _: TwoSampleTest(0.5, 0.05, 0.5, 40, "mlp"),
    "judge": lambda _: Judge(nn.Sequential(nn.Linear(2, 8), nn.SiLU()), nn.Linear(8, 2)),
    "trainer": lambda _: Trainer(NET, X, steps=2),
    "average": lambda _: EMA(NET),
    "power average": lambda _: PowerEMA(NET, 0.1),
    "update": lambda _: Update(NET),
    "folder": lambda path: RunFolder(path),
    "callback": lambda _: Callback(),
    "tensorboard": lambda path: TensorBoard(path / "board"),
    "loss": lambda _: Loss(function=lambda *_: torch.zeros(())),
    "divergence": lambda _: Divergence(control=X),
    "columns": lambda _: Table(columns=["a"] * 99),
    "predictor": lambda _: PredictorCorrector(EulerMaruyama(), Langevin(step=lambda t: 0.1)),
    "condition": lambda _: ConditionSummary((2,), {"y": ("a", "b")}),
    "perceptron": lambda _: MLP(2, width=8),
    "u-net": lambda _: UNet(1, width=8),
    "u-vit": lambda _: UViT(1, size=8, width=8),
    "time embedding": lambda _: TimeEmbedding(8),
    "fourier features": lambda _: FourierFeatures(8),
}


def public() -> set[type]:
    """The classes that the rooms of the package export, but for abstract ones and errors."""
    rooms = (
        m.name for m in iter_modules(scoresde.__path__) if m.name[0] != "_" and m.name != "cli"
    )
    modules = [import_module(f"scoresde.{room}") for room in rooms]
    things = [getattr(module, name) for module in modules for name in module.__all__]
    return {
        thing
        for thing in things
        if inspect.isclass(thing)
        and not inspect.isabstract(thing)
        and not issubclass(thing, BaseException)
    }


def plain(thing: type) -> bool:
    """Whether it is a dataclass of plain values, whose text Python makes."""
    fields = getattr(thing, "__dataclass_fields__", None)
    own = fields is not None and thing.__repr__ is not Shown.__repr__
    return own and not any(
        re.search("Tensor|Callable|Any|Map", str(f.type)) for f in fields.values()
    )


@cache
def made(name: str, folder: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return OBJECTS[name](folder)


ELSEWHERE = {
    "ConditionalNet": "a base class of networks",
    "DiffusersUNet": "a network of an optional package",
    "MixtureParameters": "a tuple",
    "MLflow": "its package is optional",
    "WeightsAndBiases": "its package is optional",
}


def test_every_public_class_is_here(folder: Path) -> None:
    here = {type(made(name, folder)) for name in OBJECTS}
    left = {thing.__name__ for thing in public() - here if not plain(thing)}
    assert left == set(ELSEWHERE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shown")


@pytest.mark.parametrize("name", OBJECTS)
def test_the_text_is_short_and_has_no_address_and_no_numbers_of_a_tensor(
    name: str, folder: Path
) -> None:
    text = repr(made(name, folder))
    assert " at 0x" not in text and "tensor(" not in text and "array(" not in text
    if not isinstance(made(name, folder), nn.Module):  # those show their layers, as in torch
        assert len(text) <= 600 and text.count("\n") <= 3
    assert text.startswith(type(made(name, folder)).__name__) or " @ " in text


@pytest.mark.parametrize("name", OBJECTS)
def test_the_table_of_a_notebook_is_well_formed(name: str, folder: Path) -> None:
    thing = made(name, folder)
    if not hasattr(thing, "_repr_html_"):
        return
    text = thing._repr_html_()
    found = Reader(text)
    assert found.texts["caption"] == [type(thing).__name__]
    assert len(found.rows) == len(found.texts["th"])
    assert " at 0x" not in text and "tensor(" not in text and len(text) < 60_000


def test_a_likelihood_is_its_mean_and_its_errors() -> None:
    text = repr(log_prob(EXACT, torch.zeros(3, 2), divergence="exact"))
    mean = -math.log(2 * math.pi)  # of N(0, I) in two dimensions at 0
    assert f"3 samples of 2 entries, log p {mean:.4g} ± 0 nats on average" in text
    assert "standard error 0, solver error" in text and text.endswith("status 'done')")
    assert len(text) < 200
