"""The Trainer: what it learns, records, resumes and refuses."""

import copy
import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import grouped
from torch import Tensor, nn
from training_models import filled, points, same, small, trained, weights

from scoresde.data import Data, summarise
from scoresde.losses import TIME, WEIGHTING, ImportanceTime, UniformTime, dsm_loss
from scoresde.model import FunctionScore, Preconditioned, ScoreModel
from scoresde.nets import MLP, UNet
from scoresde.options import Optim
from scoresde.oracles import Gaussian
from scoresde.quantisation import Quantisation
from scoresde.sde import VESDE, VPSDE
from scoresde.training import Diverged, Trainer, Update, load, processes, read_config, save
from scoresde.training.stream import Stream

# The Trainer


def test_it_learns_a_gaussian() -> None:
    mean, std = torch.tensor([1.0, -0.5]), torch.tensor([0.5, 1.5])
    x = mean + std * points(4096)
    model = Preconditioned(MLP(2, width=32, depth=2), VPSDE())
    found = Trainer(model, x, steps=400, optim=Optim(lr=5e-3)).fit()
    exact = Gaussian(mean, std**2).under(VPSDE())
    t = torch.linspace(0.05, 1.0, 50).repeat(40)
    x_t = VPSDE().perturb(t, mean + std * points(2000, seed=1), points(2000, seed=2))
    with torch.no_grad():
        wrong = found(t, x_t).eps - exact(t, x_t).eps
        size = exact(t, x_t).eps.square().mean()
    assert float(wrong.square().mean() / size) < 0.01  # of the network as it starts: 1


def test_the_same_seed_gives_the_same_weights() -> None:
    first = trained(steps=6)
    assert same(first, trained(steps=6))
    for changes in (
        {"seed": 1},
        {"lr": 3e-3},
        {"batch_size": 11},
        {"weighting": "v"},
        {"weight_decay": 0.5},
        {"clip": 0.01},
        {"schedule": "constant"},
        {"warmup": 3},
        {"ema": 0.1},
        {"time": UniformTime()},
    ):
        assert not same(first, trained(steps=6, **changes)), changes


def dropping() -> ScoreModel:
    net = UNet(1, width=8, multipliers=(1,), blocks=1, classes=3, dropout=0.4)
    return filled(Preconditioned(net, VPSDE()), 0)


def images() -> Data:
    x = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    levels = Quantisation(17)
    x = levels.encode(levels.decode(x))
    return Data(x, {"label": torch.arange(20) % 3}, levels, classes=3)


def test_dropout_is_seeded_and_the_global_state_is_left_alone() -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model, before = dropping(), torch.get_rng_state()
        found.append(
            trained(model=model, data=images(), steps=3, cond_dropout=0.3, progress=bool(seed))
        )
        assert torch.equal(before, torch.get_rng_state())
    assert same(*found)


def test_what_comes_back_and_what_becomes_of_the_model() -> None:
    model = small().eval()
    model.net.blocks.train()
    modes = [module.training for module in model.modules()]
    start = weights(model)
    found = trained(model=model, ema=0.9)
    assert type(found) is Preconditioned and found is not model
    assert not any(module.training for module in found.modules())
    assert found.net.config == model.net.config and found.sde == model.sde
    assert [module.training for module in model.modules()] == modes
    # The model holds the raw weights, the result their average, neither the start.
    end, mean = weights(model), weights(found)
    assert all(not torch.equal(end[k], start[k]) for k in end if "frequency" not in k)
    assert not torch.equal(end["net.exit.weight"], mean["net.exit.weight"])
    raw = trained(model=(other := small()), ema=0)
    assert raw is not other and same(raw, other) and same(raw, model)


def test_ema_of_the_run_is_that_of_its_weights() -> None:
    """Averaged by hand from the raw weights after every step of shorter runs."""
    run = {"schedule": "constant", "warmup": 0}
    expected: dict[str, Tensor] = {}
    for n in range(4):
        raw = weights(trained(steps=n + 1, ema=0, **run))
        d = min(0.2, (1 + n) / (10 + n)) if n else 0.0
        expected = {k: d * expected.get(k, v) + (1 - d) * v for k, v in raw.items()}
    for name, value in weights(trained(steps=4, ema=0.2, **run)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_accumulated_gradients_are_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """k pieces without noise are one batch: the same losses, gradients and weights."""
    norms: list[float] = []
    apply = Update.apply

    def noting(self: Update, norm: Tensor | None = None) -> Tensor:
        norms.append(norm := apply(self, norm))
        return norm

    monkeypatch.setattr(Update, "apply", noting)

    def plain(model: ScoreModel, x0: Tensor, **_: Any) -> Tensor:
        t = torch.full((len(x0),), 0.5)
        return (model(t, x0).eps - x0).square().mean(1)

    options = {"loss": plain, "steps": 5, "log_every": 1}
    first = Trainer(whole := small(), points(), **grouped(batch_size=12, **options))
    parts = grouped(batch_size=3, accumulate=4, **options)
    second = Trainer(pieces := small(), points(), **parts)
    first.fit(), second.fit()
    torch.testing.assert_close(norms[:5], norms[5:])
    for a, b in zip(first.history, second.history, strict=True):
        assert a == pytest.approx(b)
    for (name, a), b in zip(weights(whole).items(), weights(pieces).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_the_first_loss_by_hand() -> None:
    """Rows, noise and mean of a step are those that its number stands for."""
    model = small()
    trainer = Trainer(model, points(), steps=1, optim=Optim(batch_size=20), seed=9)
    stream = Stream(64, 20, seed=9)
    losses = dsm_loss(
        copy.deepcopy(model),
        points()[stream.rows(0)],
        time=TIME.fitted(trainer.summary.std),
        generator=stream.generator(0),
    )
    trainer.fit()
    ((step, loss, _),) = trainer.history
    assert step == 1 and loss == pytest.approx(float(losses.detach().mean()), rel=1e-6)


def test_the_learning_rate_is_that_of_the_schedule() -> None:
    """The first step of Adam moves every weight with a gradient by the learning rate."""
    model = small()
    start = weights(model)
    trained(model=model, steps=1, warmup=3, lr=0.4)
    moved = (model.net.exit.weight - start["net.exit.weight"]).abs()
    assert moved.flatten().tolist() == pytest.approx([0.1] * moved.numel(), rel=1e-3)


def test_schedule_and_warm_up() -> None:
    optim = Optim(lr=0.5, warmup=4, schedule="cosine")
    rates = Trainer(small(), points(), steps=100, optim=optim).lr_at
    assert [rates(k) for k in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rates(52) == pytest.approx(0.25)
    assert 0 < rates(99) < 1e-3 and all(rates(k) > rates(k + 1) for k in range(4, 99))
    optim = Optim(lr=0.5, schedule="constant")
    rates = Trainer(small(), points(), steps=100, optim=optim).lr_at
    assert rates(4) < rates(5) == rates(99) == 0.5  # a twentieth of the steps by default


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any processor is taken for one that computes in bfloat16; without units it emulates it."""
    monkeypatch.setattr(processes, "computes_bf16", lambda device: True)


@pytest.mark.usefixtures("bf16")
def test_bf16_runs_also_after_full_precision() -> None:
    full = trained(steps=8)
    half = trained(steps=8, precision="bf16")
    again = trained(steps=8)
    assert same(full, again) and not same(full, half)
    for a, b in zip(full.parameters(), half.parameters(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02)


@pytest.mark.usefixtures("bf16")
def test_the_network_computes_in_bf16() -> None:
    seen = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            out = self.linear(x)
            seen.append((x.dtype, out.dtype))
            return out

    trained(model=Preconditioned(Spy(), VPSDE(), predicts="v"), steps=1, precision="bf16")
    assert seen == [(torch.float32, torch.bfloat16)]


def test_options_reach_the_loss() -> None:
    seen: list[dict[str, Any]] = []

    def loss(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        seen.append(options | {"x0": x0, "training": model.net.exit.training})
        return dsm_loss(model, x0, **options)

    data = (points(), {"label": torch.arange(64) % 2})
    time = ImportanceTime()
    options = {"weighting": "likelihood", "time": time, "cond_dropout": 0.25}
    trained(
        model=small(classes=2).eval(), data=data, loss=loss, steps=1, batch_size=100, **options
    )
    (found,) = seen
    assert {k: found[k] for k in options} == options and found["training"]
    assert found["x0"].shape == (100, 2)  # more than there are: the stream goes on
    rows = (found["x0"][:, None] == data[0]).all(-1).float().argmax(1)
    assert torch.equal(found["cond"]["label"], rows % 2)
    seen.clear()
    trained(loss=loss, steps=1)
    assert seen[0]["time"] == TIME.fitted(summarise(points()).std)
    assert seen[0]["weighting"] == WEIGHTING


def test_history_and_its_files(tmp_path: Path) -> None:
    options = grouped(steps=10, batch_size=8, log_every=4, out=tmp_path, tensorboard=True)
    trainer = Trainer(small(), points(), **options)
    trainer.fit()
    assert [row[0] for row in trainer.history] == [4, 8, 10]
    assert [row[2] for row in trainer.history] == [trainer.lr_at(k) for k in (3, 7, 9)]
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", "loss", "lr", "gradient_norm", "skipped"]
    assert [(int(r[0]), float(r[1]), float(r[2])) for r in rows[1:]] == trainer.history
    found = [{"gradient_norm": float(r[3]), "skipped": int(r[4])} for r in rows[1:]]
    assert found == trainer.metrics and all(m["gradient_norm"] > 0 for m in found)
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint",
        "history.csv",
        "tensorboard",
    ]
    # A row is the mean of the losses since the last one.
    each = Trainer(small(), points(), **grouped(steps=10, batch_size=8, log_every=1))
    each.fit()
    means = [sum(r[1] for r in each.history[a:b]) / (b - a) for a, b in ((0, 4), (4, 8), (8, 10))]
    assert [row[1] for row in trainer.history] == pytest.approx(means)


def test_progress_shows_loss_and_speed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoresde._progress._watched", lambda: True)
    trained(steps=4, progress=True)
    shown = capsys.readouterr().err
    assert "train: 100%" in shown and "loss " in shown and "samples/s" in shown
    trained(steps=4)
    assert capsys.readouterr() == ("", "")


def test_the_checkpoint_is_the_result(tmp_path: Path) -> None:
    found = trained(tmp_path, dropping(), data=images(), steps=3, tensorboard=None)
    assert list((tmp_path / "tensorboard").glob("events*"))  # by default, as it is installed
    read = load(tmp_path / "checkpoint")
    assert same(read, found) and read.sde == found.sde
    config = read_config(tmp_path / "checkpoint")
    assert config["extra"]["step"] == 3
    assert Quantisation.from_dict(config["quantisation"]) == Quantisation(17)
    assert config["training"]["step"] == 3


def test_nothing_is_written_without_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained(steps=2, tensorboard=None)
    assert list(tmp_path.iterdir()) == []


# Interruption and resumption


def interrupting(calls: int) -> Callable[..., Tensor]:
    """dsm_loss, until the user loses patience at call number `calls`."""
    count = iter(range(1, 1000))

    def loss(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        if next(count) == calls:
            raise KeyboardInterrupt
        return dsm_loss(model, x0, **options)

    return loss


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no average": {"ema": 0},
    "accumulate": {"accumulate": 3},
    "constant": {"schedule": "constant", "weight_decay": 0.1, "clip": None},
    "importance": {"time": ImportanceTime(), "weighting": "likelihood"},
    "dropout": {"data": images(), "cond_dropout": 0.3, "batch_size": 7},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("name", RUNS)
def test_resumption_to_the_bit(tmp_path: Path, name: str) -> None:
    changes = {"checkpoint_every": 5, "log_every": 3} | RUNS[name]
    build = dropping if name == "dropout" else small
    model = build()
    whole = trained(tmp_path / "whole", model, **changes)

    broken, before = build(), torch.get_rng_state()
    calls = 8 * changes.get("accumulate", 1)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", broken, loss=interrupting(calls), **changes)
    assert torch.equal(before, torch.get_rng_state())
    assert broken.training
    load(tmp_path / "parts" / "checkpoint")  # intact, of step 5
    assert read_config(tmp_path / "parts" / "checkpoint")["extra"]["step"] == 5

    fresh = filled(build(), seed=77)  # of other weights: all come from the checkpoint
    data = changes.pop("data", points())
    trainer = Trainer(
        fresh,
        data,
        **grouped(**{"steps": 12, "batch_size": 10, "tensorboard": False} | changes),
        out=tmp_path / "parts",
    )
    resumed = trainer.fit(resume=True)
    assert same(resumed, whole) and same(fresh, model)
    for file in ("history.csv", "checkpoint/config.json", "checkpoint/training.safetensors"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_resuming_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    whole = trained(tmp_path)
    options = grouped(batch_size=10, out=tmp_path, tensorboard=False)
    again = Trainer(small(seed=3), points(), steps=12, **options).fit(resume=True)
    assert same(again, whole)
    longer = Trainer(small(seed=3), points(), steps=15, **options)
    assert not same(longer.fit(resume=True), whole)
    assert longer.history[-1][0] == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, r"seed: expected 0, as in .*checkpoint, got 5; resume with the same"),
        ({"batch_size": 12}, r"batch_size: expected 10, as in"),
        ({"accumulate": 2}, r"accumulate: expected 1, as in"),
        (
            {"data": points(63)},
            r"data: expected 64 samples to train on, as in .*got 63 .*the same share is held out; "
            r".*--init-from RUN, or in Python Trainer\(load\(RUN\), data\)",
        ),
        (
            {"optimizer": "muon", "seed": 5},
            r"seed, optimizer: expected 0 and 'adamw', as.* got 5 and",
        ),
        ({"freeze": ("enter.*",)}, r"freeze: expected \[\], as in .*got \['enter\.\*'\]"),
        (
            {"data": points(seed=4)},
            r"data: expected samples of hash \w{8}, .*: the same data",
        ),
        ({"ema": 0}, r"ema: expected an average of the weights, as in .*got none; resume"),
        ({"steps": 4}, r"steps: expected at least the 6 steps already made"),
        (
            {"model": Preconditioned(MLP(2, width=16, depth=1), VPSDE())},
            r"model: expected that of .*checkpoint with width=8, got width=16; build the same",
        ),
        (
            {"model": Preconditioned(MLP(2, width=8, depth=1), VPSDE(), predicts="x0")},
            r"model: expected that of .*checkpoint with predicts='v', got predicts='x0'; build",
        ),
        (
            {"model": small(sde=VPSDE(0.1, 9.0))},
            r"model\.sde: expected log_snr = .*with, VPSDE\(beta_min=0\.1, beta_max=20\.0\)",
        ),
        (
            {"model": small(sde=VESDE())},
            r"model\.sde: expected .* got .*VESDE\).*with, VPSDE\(beta_min",
        ),
        ({"out": None}, r"resume: expected a folder to resume from, got None; pass out="),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_run_is_not_resumed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    trained(tmp_path, steps=6)
    options = {"steps": 6, "batch_size": 10, "out": tmp_path} | changes
    model, data = options.pop("model", small()), options.pop("data", points())
    with pytest.raises(ValueError, match=message):
        Trainer(model, data, **grouped(**options)).fit(resume=True)


def test_an_optimizer_of_other_parameters_is_not_resumed(tmp_path: Path) -> None:
    trained(tmp_path, steps=6)
    model = small()
    model.net.enter.requires_grad_(False)
    trainer = Trainer(model, points(), steps=6, optim=Optim(batch_size=10), out=tmp_path)
    with pytest.raises(
        ValueError, match=r"optimizer\.net\.enter\.\w+ in .*train the same parameters"
    ):
        trainer.fit(resume=True)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path: expected a checkpoint folder"):
        Trainer(small(), points(), steps=3, out=tmp_path).fit(resume=True)
    save(small(), tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"resume: .*training state"):
        Trainer(small(), points(), steps=3, out=tmp_path).fit(resume=True)


# What goes wrong in training


def spoiled(step: int, how: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    count = iter(range(1, 1000))

    def loss(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        good = dsm_loss(model, x0, **options)
        return how(good, model.net.exit.bias.sum()) if next(count) == step else good

    return loss


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            lambda loss, w: loss * math.nan,
            r"loss: expected finite values, got nan at step 7 \(1 .*; look at these rows, lower",
        ),
        (lambda loss, w: loss + math.inf, r"loss: expected finite values, got inf at step 7"),
        (lambda loss, w: loss + (w - w).sqrt(), r"gradient: expected finite .*nan at step 7"),
    ],
    ids=["nan", "inf", "gradient"],
)
def test_what_is_not_finite_is_named_and_never_saved(
    tmp_path: Path, how: Callable[[Tensor, Tensor], Tensor], message: str
) -> None:
    with pytest.raises(Diverged, match=message):
        trained(tmp_path, loss=spoiled(7, how), checkpoint_every=5, max_nonfinite=1)
    assert read_config(tmp_path / "checkpoint")["extra"]["step"] == 5
    assert all(p.isfinite().all() for p in load(tmp_path / "checkpoint").parameters())


def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they came about, here by an update that spoils one in step 5."""
    apply, count = Update.apply, iter(range(1, 100))

    def spoiling(self: Update, norm: Tensor | None = None) -> Tensor:
        norm = apply(self, norm)
        if next(count) == 5:
            self.parameters[0].detach().view(-1)[0] = math.nan
        return norm

    monkeypatch.setattr(Update, "apply", spoiling)
    with pytest.raises(Diverged, match=r"model: expected finite weights, .* after step 5; lower"):
        trained(tmp_path, checkpoint_every=5)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"data": points(dim=3)},
            ValueError,
            r"data: expected a batch .* got x: \(10, 3\) float32, .*ValueError: x: .*build",
        ),
        (
            {"data": (points(), {"label": torch.zeros(64).long()})},
            TypeError,
            r"cond\['label'\]: expected none, as classes=0, .* classes=",
        ),
        (
            {"loss": lambda model, x0, **_: x0.sum()},
            TypeError,
            r"loss: expected a tensor that depends on the weights",
        ),
        ({"loss": lambda model, x0, **_: 1.0}, TypeError, r"loss: expected a tensor that depends"),
        ({"loss": lambda model, x0: x0}, TypeError, r"data: .*unexpected keyword"),
    ],
    ids=["shape", "label", "constant", "number", "signature"],
)
def test_the_first_batch_does_not_fit(
    changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    model = small()
    before = torch.get_rng_state()
    with pytest.raises(kind, match=message):
        trained(model=model, **changes)
    assert torch.equal(before, torch.get_rng_state()) and model.training


def test_accelerate_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        ImportError, match=r"accelerate is needed.*pip install 'scoresde\[train\]'"
    ):
        trained(steps=1)


NAN = points().index_fill(0, torch.tensor(3), math.nan)


CONSTANT = points().index_fill(1, torch.tensor(1), 2.0)


LINEAR = FunctionScore(VPSDE(), lambda t, x: -x)


TIMED = Preconditioned(MLP(2), VPSDE(), time=lambda n: n.t)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model": MLP(2)}, TypeError, r"(?s)model: .*ScoreModel.*Preconditioned\(net, sde\)"),
        ({"model": LINEAR}, ValueError, r"model: expected parameters to train"),
        ({"data": NAN}, ValueError, r"x: expected finite numbers, got 'nan in row 3'"),
        ({"data": CONSTANT}, ValueError, r"x: expected channels that vary.*channel 1"),
        ({"data": points().long()}, TypeError, r"x: .*int64.*encode"),
        ({"data": points(0)}, ValueError, r"x: expected at least one sample"),
        ({"data": points()[:, 0]}, ValueError, r"x: .*\(N, \*D\)"),
        ({"data": (points(), {"label": torch.zeros(3).long()})}, ValueError, r"label.*64"),
        ({"steps": 0}, ValueError, r"steps: expected a positive integer, got 0"),
        ({"steps": -5}, ValueError, r"steps: expected a positive integer, got -5"),
        ({"steps": 2.5}, TypeError, r"steps: expected a positive integer, got 2\.5"),
        ({"batch_size": 0}, ValueError, r"batch_size: expected a positive integer, got 0"),
        ({"lr": 0.0}, ValueError, r"lr: expected a finite number > 0, got 0\.0"),
        ({"lr": math.inf}, ValueError, r"lr: expected a finite number > 0, got inf"),
        ({"ema": 1.0}, ValueError, r"ema: expected a number in \[0, 1\), got 1\.0"),
        ({"seed": -1}, ValueError, r"seed: expected an integer in \[0, 2\*\*63\), got -1"),
        ({"seed": 0.5}, ValueError, r"seed: expected an integer in \[0, 2\*\*63\), got 0\.5"),
        ({"weighting": "minsnr"}, ValueError, r"weighting: .*did you mean 'min_snr'"),
        ({"time": "uniform"}, TypeError, r"time: .*TimeSampler.*UniformTime"),
        ({"loss": "dsm"}, TypeError, r"loss: .*dsm_loss"),
        ({"cond_dropout": 1.1}, ValueError, r"cond_dropout: expected a probability .*1\.1"),
        ({"warmup": -1}, ValueError, r"warmup: expected a finite number >= 0, got -1"),
        ({"schedule": "cosin"}, ValueError, r"schedule: .*did you mean 'cosine'"),
        ({"clip": -1.0}, ValueError, r"clip: expected a finite number >= 0"),
        ({"weight_decay": -0.1}, ValueError, r"weight_decay: .*got -0\.1"),
        ({"accumulate": 0}, ValueError, r"accumulate: expected a positive integer, got 0"),
        ({"precision": "fp16"}, ValueError, r"precision: .*fp16.*did you mean 'bf16'"),
        ({"device": "gpu"}, ValueError, r"device: expected a device of this machine, got 'gpu'"),
        ({"log_every": 0}, ValueError, r"log_every: expected a positive integer, got 0"),
        ({"checkpoint_every": 0}, ValueError, r"checkpoint_every: .*positive integer, got 0"),
        ({"out": __file__}, ValueError, r"out: expected a folder, .*choose another name"),
        ({"out": "x", "model": TIMED}, TypeError, r"model\.time: .*name a convention"),
        ({"out": "x", "quantisation": 256}, TypeError, r"quantisation: .*Quantisation\(256\)"),
        ({"tensorboard": True}, ValueError, r"tensorboard: expected a folder.*pass out="),
        ({"keep": 0}, ValueError, r"keep: expected a positive integer, got 0"),
        ({"max_nonfinite": 0}, ValueError, r"max_nonfinite: .*positive integer, got 0"),
        ({"validation": NAN}, ValueError, r"x: expected finite numbers, got 'nan in row 3'"),
        ({"buckets": 0}, ValueError, r"buckets: expected a positive integer, got 0"),
        ({"snapshot_every": 2}, ValueError, r"snapshot_every: expected a folder.*pass out="),
        ({"widths": (0.1,)}, ValueError, r"widths: expected two different widths, got \(0\.1,\)"),
        ({"widths": (0.1, 0.3)}, ValueError, r"widths: expected a width below 0\.2886"),
        ({"learning_rate": 1e-3}, TypeError, r"unexpected keyword argument 'learning_rate'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_at_once(
    changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    options = {"model": small(), "data": points(), "steps": 3} | changes
    with pytest.raises(kind, match=message):
        Trainer(options.pop("model"), options.pop("data"), **grouped(**options))
    assert not Path("x").exists()


def test_a_clipped_step_is_that_of_clipped_gradients() -> None:
    """Small gradients stay as they are, large ones lose length: AdamW tells mixed sizes apart."""
    ours, plain = (nn.Linear(3, 1) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    update = Update(ours, Optim(lr=0.1, ema=0))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.0)
    for size in (0.01, 30.0, 0.2, 5.0):
        for net in (ours, plain):
            (size * net(torch.ones(2, 3)).mean()).backward()
        update.apply()
        torch.nn.utils.clip_grads_with_norm_(
            list(plain.parameters()),
            1.0,
            torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()]),
        )
        optimizer.step()
        optimizer.zero_grad()
        for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(mine, other, atol=1e-6), size


def test_a_trained_model_knows_its_data_and_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    model = Trainer(
        Preconditioned(MLP(2, width=8), VPSDE()), x, steps=1, out=tmp_path / "run"
    ).fit()
    assert model.data is not None
    assert (model.data.count, model.data.shape) == (50, (2,))
    assert (model.data.low, model.data.high) == (float(x.min()), float(x.max()))
    again = load(tmp_path / "run" / "checkpoint").data
    assert again is not None
    assert again.to_dict() == model.data.to_dict()


def test_a_schedule_that_does_not_reach_noise_is_told_before_the_training() -> None:
    with pytest.warns(UserWarning, match="does not reach noise"):
        Trainer(Preconditioned(MLP(2, width=8), VPSDE(0.1, 2.0)), points(64), steps=1)


def test_conditions_that_a_network_does_not_take_name_the_way_to_build_one_that_does() -> None:
    data = Data(points(64), {"y": torch.ones(64, 1)})
    with pytest.raises(ValueError, match=r"takes no conditions, got 'y'; .*infer_conditions"):
        Trainer(Preconditioned(MLP(2, width=8), VPSDE()), data, steps=1)


def test_a_network_whose_arguments_are_swapped_is_told_their_order() -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            out: Tensor = self.layer(torch.cat([x, t[:, None]], 1))
            return out

    with pytest.raises((ValueError, TypeError), match=r"it is called net\(x, t, \*\*cond\)"):
        Trainer(Preconditioned(Swapped(), VPSDE()), points(64), steps=1).fit()
