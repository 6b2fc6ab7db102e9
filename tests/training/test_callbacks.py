"""Callbacks of a run: what they are told, when, and the ready-made ones by stand-ins."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from groups import grouped
from training_models import points, small

from scoresde import Trainer
from scoresde.model import ScoreModel
from scoresde.training import Callback, MLflow, TensorBoard, WeightsAndBiases

NUMBERS = {"loss", "lr", "samples_per_second", "gradient_norm", "skipped"}


class Listener(Callback):
    """Writes down everything that it is told."""

    def __init__(self, fails_at: int = 0) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.fails_at = fails_at

    def start(self, step: int, settings: Mapping[str, object]) -> None:
        self.settings = dict(settings)
        self.told.append(("start", step))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append(("scalars", step, set(values)))

    def model(self, step: int, model: ScoreModel) -> None:
        assert not model.training
        self.told.append(("model", step))
        if step == self.fails_at:
            raise ArithmeticError("a fault of the callback")

    def sync(self) -> None:
        self.told.append(("sync",))

    def end(self, failed: bool) -> None:
        self.told.append(("end", failed))


def trainer(callback: Any, **changes: Any) -> Trainer:
    options = {"steps": 4, "batch_size": 4, "log_every": 2, "tensorboard": None} | changes
    return Trainer(small(), points(), callback=callback, callback_every=2, **grouped(**options))


def test_a_callback_is_told_of_the_whole_run_in_order() -> None:
    listener = Listener()
    run = trainer(listener, validation=points(8), validate_every=4, buckets=2)
    run.fit()
    validation = {"validation", "validation/0", "validation/1"}
    assert listener.told == [
        ("start", 0),
        ("scalars", 2, NUMBERS),
        ("model", 2),
        ("scalars", 4, NUMBERS),
        ("scalars", 4, validation),
        ("model", 4),
        ("end", False),
    ]
    assert listener.settings["batch_size"] == 4 and listener.settings["steps"] == 4
    run.fit()  # another run starts it anew
    assert listener.told[7:] == listener.told[:7]


def test_functions_and_callbacks_are_called_in_their_order_and_change_no_weight() -> None:
    calls: list[str] = []
    listener = Listener()
    found = trainer([lambda step, model: calls.append(f"first {step}"), listener]).fit()
    assert calls == ["first 2", "first 4"] and ("model", 4) in listener.told
    alone = trainer(None).fit()
    pairs = zip(found.parameters(), alone.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_resumed_run_starts_its_callbacks_at_its_step(tmp_path: Path) -> None:
    trainer(None, out=tmp_path).fit()
    listener = Listener()
    with pytest.warns(UserWarning, match="steps 4 -> 6"):
        trainer(listener, out=tmp_path, steps=6).fit(resume=True)
    assert listener.told[0] == ("start", 4) and listener.told[1][:2] == ("scalars", 6)
    assert ("sync",) in listener.told and listener.told[-1] == ("end", False)


def test_a_fault_ends_every_callback_that_started_and_no_other() -> None:
    first, broken, last = Listener(), Listener(fails_at=2), Listener()
    with pytest.raises(ArithmeticError, match="a fault of the callback"):
        trainer([first, broken, last]).fit()
    assert [one.told[-1] for one in (first, broken, last)] == [("end", True)] * 3

    class Never(Callback):
        def start(self, step: int, settings: Mapping[str, object]) -> None:
            raise ConnectionError("no service")

    first, last = Listener(), Listener()
    with pytest.raises(ConnectionError, match="no service"):
        trainer([first, Never(), last]).fit()
    assert first.told == [("start", 0), ("end", True)] and last.told == []


@pytest.mark.parametrize("wrong", [3, "wandb", WeightsAndBiases, [Listener(), None]])
def test_what_is_no_callback_is_refused_before_training(wrong: Any) -> None:
    expected = r"callback: expected a function of \(step, model\), a Callback, or several"
    with pytest.raises(TypeError, match=expected):
        trainer(wrong)


def test_tensorboard_without_a_folder_of_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(TensorBoard(tmp_path / "board"))
    run.fit()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == NUMBERS
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(step, pytest.approx(loss)) for step, loss, _ in run.history]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match=r"folder: .*taken"):
        trainer(TensorBoard(tmp_path / "taken" / "board")).fit()


# Services, by stand-ins for their modules


class Calls:
    """Records the calls of the functions of a service as (name, arguments)."""

    def __init__(self) -> None:
        self.made: list[tuple[str, dict[str, Any]]] = []

    def function(self, name: str, result: Any = None) -> Any:
        def call(*values: Any, **options: Any) -> Any:
            named = dict(zip(("values",), values, strict=False))
            self.made.append((name, named | options))
            return result

        return call

    def of(self, name: str) -> list[dict[str, Any]]:
        return [options for made, options in self.made if made == name]


def a_module(name: str, monkeypatch: pytest.MonkeyPatch, **parts: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(parts)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> tuple[Calls, ModuleType]:
    calls = Calls()
    config = SimpleNamespace(update=calls.function("config"))
    run = SimpleNamespace(
        log=calls.function("log"), finish=calls.function("finish"), config=config
    )
    return calls, a_module("wandb", monkeypatch, run=None, init=calls.function("init", run))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> tuple[Calls, ModuleType]:
    calls = Calls()
    names = ("set_experiment", "start_run", "log_params", "log_metrics", "end_run")
    parts = {name: calls.function(name) for name in names}
    return calls, a_module("mlflow", monkeypatch, active_run=lambda: None, **parts)


def test_weights_and_biases_gets_settings_and_numbers(wandb: tuple[Calls, ModuleType]) -> None:
    calls, _ = wandb
    run = trainer(WeightsAndBiases("flowers", name="first"))
    run.fit()
    assert [name for name, _ in calls.made] == ["init", "log", "log", "finish"]
    (begun,) = calls.of("init")
    assert begun["project"] == "flowers" and begun["name"] == "first" and begun["id"] is None
    assert begun["resume"] is None and begun["config"]["batch_size"] == 4
    logged = [(each["step"], each["values"]["loss"]) for each in calls.of("log")]
    assert logged == [(step, loss) for step, loss, _ in run.history]
    assert calls.of("finish") == [{"exit_code": 0}]
    with pytest.raises(ArithmeticError):
        trainer([WeightsAndBiases(id="abc"), Listener(fails_at=2)]).fit()
    assert calls.of("init")[1]["resume"] == "allow" and calls.of("finish")[1] == {"exit_code": 1}


def test_an_open_run_of_weights_and_biases_is_used_and_left_open(
    wandb: tuple[Calls, ModuleType],
) -> None:
    calls, module = wandb
    module.run = module.init()  # type: ignore[attr-defined]  # of the stand-in
    trainer(WeightsAndBiases()).fit()
    assert [name for name, _ in calls.made] == ["init", "config", "log", "log"]
    with pytest.raises(ValueError, match=r"project: expected none, since wandb\.run is open"):
        trainer(WeightsAndBiases("other")).fit()


def test_mlflow_gets_settings_and_numbers(mlflow: tuple[Calls, ModuleType]) -> None:
    calls, _ = mlflow
    run = trainer(MLflow("flowers", name="first"))
    run.fit()
    order = ["set_experiment", "start_run", "log_params", "log_metrics", "log_metrics", "end_run"]
    assert [name for name, _ in calls.made] == order
    assert calls.of("start_run") == [{"run_id": None, "run_name": "first"}]
    assert calls.of("log_params")[0]["values"]["steps"] == 4
    logged = [(each["step"], each["values"]["loss"]) for each in calls.of("log_metrics")]
    assert logged == [(step, loss) for step, loss, _ in run.history]
    assert calls.of("end_run") == [{"status": "FINISHED"}]
    with pytest.raises(ArithmeticError):
        trainer([MLflow(id="abc"), Listener(fails_at=2)]).fit()
    assert len(calls.of("log_params")) == 1  # a run that goes on keeps its parameters
    assert calls.of("end_run")[1] == {"status": "FAILED"}


def test_an_open_run_of_mlflow_is_used_and_left_open(mlflow: tuple[Calls, ModuleType]) -> None:
    calls, module = mlflow
    module.active_run = lambda: "open"  # type: ignore[attr-defined]  # of the stand-in
    trainer(MLflow()).fit()
    assert [name for name, _ in calls.made] == ["log_params", "log_metrics", "log_metrics"]
    with pytest.raises(ValueError, match="id: expected none, since mlflow"):
        trainer(MLflow(id="abc")).fit()


@pytest.mark.parametrize(
    ("module", "make", "install"),
    [
        ("wandb", WeightsAndBiases, "pip install wandb"),
        ("mlflow", MLflow, "pip install mlflow"),
        ("torch.utils.tensorboard", lambda: TensorBoard("runs"), r"pip install 'scoresde\[train"),
    ],
)
def test_a_missing_service_is_named_with_its_command(
    module: str, make: Any, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=install):
        make()


def test_the_records_say_whether_a_missing_tensorboard_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    trainer(None, out=tmp_path / "quiet").fit()
    assert not (tmp_path / "quiet/tensorboard").exists()
    with pytest.raises(ImportError, match="tensorboard is not installed"):
        trainer(None, out=tmp_path / "wanted", tensorboard=True).fit()
