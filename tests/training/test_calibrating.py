"""Calibrations at the end of a run: within their share, stored, used, and void when stale."""

from __future__ import annotations

import importlib
import json
import re
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from scoresde import (
    VPSDE,
    FunctionScore,
    Preconditioned,
    ReverseSampler,
    Trainer,
    load,
    save,
)
from scoresde.calibration import calibrate_each
from scoresde.calibration.stored import stored, valid
from scoresde.cli.inspect import report
from scoresde.data import Data
from scoresde.model import ScoreModel
from scoresde.nets import MLP
from scoresde.options import Optim, Records
from scoresde.process import ReverseSDE
from scoresde.sde import SDE
from scoresde.training.calibrating import calibrate_run
from scoresde.training.checkpoint import add_calibrations, read_config
from scoresde.training.files import rewrite

VP = VPSDE()
CALIBRATING = importlib.import_module("scoresde.training.calibrating")
STORED = importlib.import_module("scoresde.calibration.stored")


def ring(n: int = 512) -> torch.Tensor:
    angle = torch.rand(n, generator=torch.Generator().manual_seed(0)) * 6.28
    return torch.stack([angle.cos(), angle.sin()], 1)


def trainer(out: Path | None = None, steps: int = 60, **options: Any) -> Trainer:
    torch.manual_seed(0)
    net = MLP(2, width=8, classes=2 if "cond" in options else 0)
    data: Any = ring()
    if "cond" in options:
        data = data, {"label": options.pop("cond")}
    records = options.pop("records", Records(tensorboard=False))
    return Trainer(
        Preconditioned(net, VP),
        data,
        steps=steps,
        optim=Optim(batch_size=4096, lr=1e-2),
        records=records,
        out=out,
        device="cpu",
        **options,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, ScoreModel, Path]:
    out = tmp_path_factory.mktemp("run") / "ring"
    made = trainer(out)
    return made, made.fit(), out


def test_calibrations_cost_at_most_three_percent_of_the_training(
    run: tuple[Trainer, ScoreModel, Path],
) -> None:
    made, model, _ = run
    assert sorted(model.calibrations) == ["10", "20", "5"] and made.uncalibrated == ""
    spent = sum(c.cost.evaluations for c in model.calibrations.values())
    assert 0.01 < spent / (3 * 60 * 4096) <= 0.03
    for calibration in model.calibrations.values():
        assert calibration.held.typical <= calibration.held_before.typical


def test_auto_uses_the_calibration_of_its_number_of_steps_and_says_so(
    run: tuple[Trainer, ScoreModel, Path],
) -> None:
    for model in (run[1], load(run[2])):
        plan = ReverseSampler(VP, model, steps=10).plan
        assert plan.solver == run[1].calibrations["10"].solver and plan.eta == 0.0
        assert plan.schedule.grid == run[1].calibrations["10"].grid
        assert "calibrated for this model and 10 steps" in plan.why
        for other in (
            ReverseSampler(VP, model, steps=11),
            ReverseSampler(VP, model, steps=10, eta=1.0),
            ReverseSampler(VP, model, "auto_sde", steps=10),
            ReverseSampler(VP, model, steps=10, grid="karras"),
            ReverseSampler(VP, model, steps=10, t_end=0.01),
            ReverseSampler(VP, model, "ddim", steps=10),
        ):
            assert "calibrated" not in other.plan.why


def test_a_start_below_T_takes_the_table(run: tuple[Trainer, ScoreModel, Path]) -> None:
    sampler = ReverseSampler(VP, run[1], steps=10)
    solution = sampler.solve((4, 2), x_init=torch.randn(4, 2), t_start=0.5, seed=0)
    assert solution.grid.start == 0.5 and "measured" in solution.plan.why


def test_stored_and_loaded_calibrations_are_equal(run: tuple[Trainer, ScoreModel, Path]) -> None:
    assert dict(load(run[2]).calibrations) == dict(run[1].calibrations)
    assert valid(load(run[2])) == dict(run[1].calibrations)


def test_a_model_that_was_changed_takes_the_table_with_a_warning(
    run: tuple[Trainer, ScoreModel, Path], tmp_path: Path
) -> None:
    model = load(run[2])
    assert stored(model, 10, 0.0) is not None
    next(iter(model.parameters())).data[0] += 1e-3  # without a change of its version
    with pytest.warns(UserWarning, match="calibration for 10 steps was made before its weights"):
        plan = ReverseSampler(VP, model, steps=10).plan
    assert "measured" in plan.why
    with pytest.warns(UserWarning, match="are not saved; calibrate it anew"):
        save(model, tmp_path / "changed")
    assert load(tmp_path / "changed").calibrations == {}


def test_the_weights_are_hashed_once(
    run: tuple[Trainer, ScoreModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = load(run[2]), []
    hashed = STORED.weights_hash
    monkeypatch.setattr(STORED, "weights_hash", lambda m: (seen.append(1), hashed(m))[1])
    for _ in range(3):
        ReverseSampler(VP, model, steps=10)
    assert len(seen) == 1  # all three were made for the same weights
    next(iter(model.parameters())).data[0] += 1e-3
    with pytest.warns(UserWarning, match="calibration for 10 steps"):
        ReverseSampler(VP, model, steps=10)
    assert len(seen) == 2


def test_a_run_that_is_resumed_at_its_end_keeps_them(
    run: tuple[Trainer, ScoreModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = importlib.import_module("scoresde.calibration.search")
    monkeypatch.setattr(search, "calibrate_each", lambda *_, **__: pytest.fail("searched again"))
    again = trainer(run[2]).fit(resume=True)
    assert dict(again.calibrations) == dict(run[1].calibrations)


def test_training_on_makes_the_old_calibrations_void() -> None:
    made = trainer(records=Records(calibrate=(4,)))
    model = made.fit()
    assert list(model.calibrations) == ["4"]
    on = Trainer(model, ring(), steps=1, optim=Optim(batch_size=8), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert on.fit().calibrations == {} and model.calibrations == {}
    assert re.fullmatch(
        "no calibration was made for 5, 10, 20 steps: 3 % of the training's cost, .* do not "
        "suffice; scoresde.calibrate makes one",
        on.uncalibrated,
    )


def test_the_command_that_calibrates_a_saved_run_is_named(tmp_path: Path) -> None:
    made = trainer(tmp_path / "run", steps=1)
    assert made.fit().calibrations == {}
    assert f"; `scoresde calibrate {tmp_path / 'run'}` makes one, or " in made.uncalibrated


def test_fewer_steps_are_calibrated_where_the_share_is_small() -> None:
    made = trainer(steps=25)
    assert sorted(made.fit().calibrations) == ["10", "5"]
    assert made.uncalibrated.startswith("no calibration was made for 20 steps: 3 % of")


def test_none_and_zero_make_no_calibration() -> None:
    for value in (None, (0,), ()):
        records = Records(calibrate=value)
        assert records.calibrate is None
    assert trainer(records=records).fit().calibrations == {}
    with pytest.raises(ValueError, match="calibrate: expected"):
        Records(calibrate=(5, -1))
    with pytest.raises(TypeError, match="calibrate: expected"):
        Records(calibrate="5")  # type: ignore[arg-type]


def test_conditions_of_the_trajectories_are_those_of_the_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def search(process: ReverseSDE, shape: Any, **options: Any) -> Any:
        seen.append(process.cond)
        return calibrate_each(process, shape, **options)

    module = importlib.import_module("scoresde.calibration.search")
    monkeypatch.setattr(module, "calibrate_each", search)
    labels = (torch.arange(512) >= 384).long()
    model = trainer(cond=labels, records=Records(calibrate=(5,))).fit()
    share = seen[0]["label"].double().mean()
    assert share == pytest.approx(0.25, abs=0.03) and list(model.calibrations) == ["5"]


class Failing(MLP):
    """A network that fails outside of the training."""

    error: Exception = RuntimeError("only in training")

    def forward(self, x: torch.Tensor, *args: Any, **cond: Any) -> torch.Tensor:
        if not self.training:
            raise self.error
        return super().forward(x, *args, **cond)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("only in training"), "RuntimeError: only in training"),
        (AssertionError(), "AssertionError"),
        (KeyError("label"), "KeyError: 'label'"),
        (OSError("no space left"), "OSError: no space left"),
    ],
    ids=repr,
)
def test_a_calibration_that_fails_loses_no_run(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failing, "error", error)
    made = Trainer(
        Preconditioned(Failing(2, width=8), VP),
        ring(),
        steps=60,
        optim=Optim(batch_size=4096),
        device="cpu",
    )
    with pytest.warns(UserWarning, match=f"calibration failed: {told}; the model is"):
        assert made.fit().calibrations == {}


def test_calibrations_that_cannot_be_written_stay_in_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(CALIBRATING, "add_calibrations", full)
    made = trainer(tmp_path / "run", records=Records(tensorboard=False, calibrate=(4,)))
    with pytest.warns(UserWarning, match="OSError: no space left; the returned model has them"):
        model = made.fit()
    assert list(model.calibrations) == ["4"] and "no space left" in made.uncalibrated


def test_no_more_trajectories_are_solved_at_a_time_than_a_batch_has_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def search(process: ReverseSDE, shape: Any, **options: Any) -> Any:
        seen.append(options["batch_size"])
        return calibrate_each(process, shape, **options)

    monkeypatch.setattr(
        importlib.import_module("scoresde.calibration.search"), "calibrate_each", search
    )
    made = trainer(records=Records(calibrate=(4,)))
    made.fit()
    assert seen == [made.batch_size] == [4096]


def test_settings_and_schedule_are_compared_at_every_use(
    run: tuple[Trainer, ScoreModel, Path],
) -> None:
    changes: list[tuple[str, Any]] = [
        ("predicts", "eps"),
        ("sigma_data", 0.3),
        ("time", "log_snr"),
        ("sde", VPSDE(beta_max=19.0)),
    ]
    for name, value in changes:
        model = load(run[2])
        assert stored(model, 10, 0.0) is not None
        setattr(model, name, value)
        with pytest.warns(UserWarning, match="weights or settings were changed"):
            assert stored(model, 10, 0.0) is None
    model.calibrations = {"10": run[1].calibrations["10"]}
    model.sde = VP
    assert stored(model, 10, 0.0) is not None


def test_weights_of_inference_mode_have_calibrations_too(
    run: tuple[Trainer, ScoreModel, Path],
) -> None:
    model = load(run[2])
    with torch.inference_mode():
        for part in model.modules():
            for name, weight in list(part._parameters.items()):
                if weight is not None:
                    part._parameters[name] = torch.nn.Parameter(weight.clone(), False)
    assert next(model.parameters()).is_inference()
    assert "calibrated for this model" in ReverseSampler(VP, model, steps=10).plan.why


def test_calibrations_of_another_version_are_left_out(
    run: tuple[Trainer, ScoreModel, Path], tmp_path: Path
) -> None:
    place = save(run[1], tmp_path / "model")
    config = read_config(place)
    config["calibrations"]["5"]["version"] = 1
    rewrite(place, config)
    with pytest.warns(UserWarning, match="calibrations for 5 steps are of another version"):
        model = load(place)
    assert sorted(model.calibrations) == ["10", "20"] and sorted(valid(model)) == ["10", "20"]
    with pytest.warns(UserWarning, match="of another version"):
        assert sorted(report(place)["calibrations"]) == ["10", "20"]
    config["calibrations"]["5"]["format"] = "other"
    rewrite(place, config)
    with pytest.raises(ValueError, match="model settings that do not fit"):
        load(place)


def _one_of_two(rank: int, place: str) -> None:
    """What each of two processes does: only the first searches, for longer than a collective."""
    wait = timedelta(seconds=20)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meeting", world_size=2, rank=rank, timeout=wait
    )
    search = importlib.import_module("scoresde.calibration.search")
    each, budgets = search.calibrate_each, []

    def slowly(*args: Any, **options: Any) -> Any:
        budgets.append(options["budget"])
        time.sleep(1.5 * wait.total_seconds())
        return each(*args, **options)

    search.calibrate_each = slowly
    torch.manual_seed(0)
    model = Preconditioned(MLP(2, width=8), VP)
    why = calibrate_run(model, (4,), Data(ring()), samples=100_000, seed=0)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    told = {name: c.to_dict() for name, c in model.calibrations.items()}
    (Path(place) / f"{rank}.json").write_text(json.dumps([why, budgets, told]))


@pytest.mark.slow
def test_one_of_two_processes_calibrates_and_the_other_waits(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first[0] == second[0] == "" and list(first[2]) == ["4"] and first[2] == second[2]
    assert (first[1], second[1]) == ([9000], [])  # 3 % of the cost of one process


def test_an_sde_that_is_not_affine_has_none_and_says_so() -> None:
    model = FunctionScore(SDE(lambda t, x: -x, lambda t: 1.0), lambda t, x: -x)
    why = calibrate_run(model, (5,), Data(ring()), samples=10**6, seed=0)
    assert "SDE has no finite log-SNR" in why and model.calibrations == {}


def test_a_checkpoint_takes_calibrations_of_its_own_model_alone(
    run: tuple[Trainer, ScoreModel, Path], tmp_path: Path
) -> None:
    place = save(run[1], tmp_path / "model")
    before = read_config(place)
    add_calibrations(place, run[1], {"few": run[1].calibrations["5"]})
    after = read_config(place)
    assert sorted(after["calibrations"]) == ["10", "20", "5", "few"]
    assert {k: v for k, v in after.items() if k not in ("calibrations", "checksum")} == {
        k: v for k, v in before.items() if k not in ("calibrations", "checksum")
    }
    other = Preconditioned(MLP(2, width=9), VP)
    with pytest.raises(ValueError, match="model: expected that of"):
        add_calibrations(place, other, {})
    changed = load(place)
    next(iter(changed.parameters())).data.add_(1.0)
    with pytest.raises(ValueError, match="weights"):
        add_calibrations(place, changed, {"5": run[1].calibrations["5"]})
    assert json.loads((place / "config.json").read_text()) == after
