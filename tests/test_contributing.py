"""What CONTRIBUTING.md shows how to add works at once, everywhere, with that one registration."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import order
import pytest
import torch
from torch import Tensor

import scoresde.losses
import scoresde.nets
import scoresde.sde
import scoresde.solvers
from scoresde import VPSDE, Preconditioned, ReverseSampler, dsm_loss, load, save
from scoresde.cli import main
from scoresde.cli.flags import registered
from scoresde.losses import TIMES, WEIGHTINGS
from scoresde.metrics import METRICS, compare_sets
from scoresde.nets import MLP, NETS
from scoresde.sde import SDES
from scoresde.solvers import SOLVERS

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
D = torch.float64


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """All that the examples of the page define, registered for one test."""
    for table, key in (
        (SDES, "power"), (SOLVERS, "midpoint"), (WEIGHTINGS, "truncated_snr"),
        (METRICS, "mean"), (NETS, "linear"),
    ):  # fmt: skip
        monkeypatch.setitem(table, key, None)  # type: ignore[arg-type]  # removed after the test
    names: dict[str, Any] = {"__name__": __name__}
    for block in blocks("python"):
        exec(block, names)
    return names


def run(line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 0


def config(folder: Path) -> Any:
    return json.loads((folder / "checkpoint/config.json").read_text(encoding="utf-8"))


def test_every_example_is_of_one_class_or_function_and_one_registration() -> None:
    for block in blocks("python"):
        assert len(re.findall(r"^[A-Z]+\[", block, re.MULTILINE)) <= 1
    assert (
        sum(bool(re.search(r"^[A-Z]+\[", block, re.MULTILINE)) for block in blocks("python")) == 5
    )


def test_the_family_is_its_own_derivative_and_inverse(made: dict[str, Any]) -> None:
    sde = made["PowerSDE"](power=1.7)
    t = torch.linspace(sde.t_min, sde.T, 50, dtype=D).requires_grad_()
    (slope,) = torch.autograd.grad(sde.log_snr(t).sum(), t)
    assert torch.allclose(sde.g(t) ** 2, -2 * sde.sigma(t) ** 2 * slope, rtol=1e-12)
    assert torch.allclose(sde.time_of(sde.log_snr(t)), t, rtol=1e-12)
    assert math.isclose(
        sde.sigma(0.3), float(sde.sigma(torch.tensor(0.3, dtype=D))), rel_tol=1e-15
    )


def test_a_checkpoint_rebuilds_the_family_and_the_network(
    made: dict[str, Any], tmp_path: Path
) -> None:
    model = Preconditioned(made["Linear"](2), made["PowerSDE"](power=3.0))
    found = load(save(model, tmp_path / "model"))
    assert found.sde == model.sde
    x = torch.ones(3, 2)
    assert torch.equal(found.score(0.5, x), model.eval().score(0.5, x))


def test_a_name_that_is_not_registered_is_refused_with_those_that_are(
    made: dict[str, Any], tmp_path: Path
) -> None:
    folder = save(Preconditioned(MLP(2, width=8), made["PowerSDE"]()), tmp_path / "model")
    del SDES["power"]
    with pytest.raises(ValueError, match=r"sde: expected one of VPSDE, .*FlowSDE.* got PowerSDE"):
        load(folder)


def test_the_command_line_trains_and_samples_with_all_of_them(
    made: dict[str, Any], tmp_path: Path
) -> None:
    """No option, help or table of the command line was touched."""
    out = tmp_path / "run"
    run(
        f"train moons --data-option n=200 --steps 2 --batch-size 8 --sde power --net linear "
        f"--sde-option power=3 --weighting truncated_snr --out {out} --json"
    )
    assert config(out)["sde"] == {
        "class": "PowerSDE", "fields": {"sigma_max": 50.0, "power": 3.0},
    }  # fmt: skip
    assert config(out)["net"]["config"] == {"dim": 2, "classes": 0}
    run(f"sample {out} --n 4 --solver midpoint --steps 3 --out {tmp_path / 'x'} --json")


def test_the_command_line_lists_what_is_registered(
    made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(f"train moons --sde powr --out {tmp_path / 'run'}".split())
    assert ended.value.code == 2
    assert "did you mean 'power'" in " ".join(capsys.readouterr().err.split())


def test_what_is_registered_is_exported_from_its_room() -> None:
    """So an import of the class, its name and its entry stand in one file, and are one edit."""
    for room, table in ((scoresde.sde, SDES), (scoresde.nets, NETS), (scoresde.losses, TIMES)):
        assert {made.__name__ for made in table.values()} <= set(room.__all__)
    assert {type(solver).__name__ for solver, _ in SOLVERS.values()} <= set(
        scoresde.solvers.__all__
    )


@pytest.mark.parametrize(
    ("room", "table", "keys"),
    [
        ("sde", "SDES", SDES), ("nets", "NETS", NETS), ("losses", "WEIGHTINGS", WEIGHTINGS),
        ("losses", "TIMES", TIMES),
    ],
)  # fmt: skip
def test_the_help_lists_what_is_registered(room: str, table: str, keys: dict[str, Any]) -> None:
    """Read from the source, without importing torch."""
    assert re.split(", | or ", registered(room, table)) == list(keys)


def test_the_solver_is_short_and_of_its_order(made: dict[str, Any]) -> None:
    (block,) = (block for block in blocks("python") if "class Midpoint" in block)
    assert len(block[block.index("@dataclass") :].strip().splitlines()) <= 30
    (line,) = blocks("json")
    assert line.strip() == '"Midpoint()": {"ode": 2}'
    solver = made["Midpoint"]()
    observed = order.rates(order.ode_errors(solver, (160, 320, 640)))
    assert abs(observed[-1] - solver.orders.ode) < 0.15, observed


def test_the_name_of_the_solver_is_the_solver(made: dict[str, Any]) -> None:
    sde = VPSDE()
    model = order.mixture_2d().under(sde)
    named, own = (
        ReverseSampler(sde, model, solver, steps=5).sample((3, 2), seed=0)
        for solver in ("midpoint", made["Midpoint"]())
    )
    assert torch.equal(named, own)


def test_the_weighting_is_taken_by_name(made: dict[str, Any]) -> None:
    """max(SNR, 1) on x_0 is max(1, 1/SNR) on eps."""
    model = order.mixture_2d().under(VPSDE())
    x = order.mixture_2d().sample(64, seed=0)

    def loss(weighting: Any) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return dsm_loss(model, x, weighting=weighting, generator=generator)

    by_hand = loss(lambda node: ((node.sigma / node.alpha) ** 2).clamp_min(1.0))
    assert torch.allclose(loss("truncated_snr"), by_hand, rtol=1e-9)


def test_the_metric_stands_beside_its_floor(made: dict[str, Any]) -> None:
    g = torch.Generator().manual_seed(1)
    real, good = torch.randn(400, 2, generator=g), torch.randn(200, 2, generator=g)
    found = compare_sets(good + 1, real, metrics=("mean",))["mean"]
    assert 1.2 < found.value < 1.6
    assert not found.within_floor
    assert compare_sets(good, real, metrics=("mean",))["mean"].within_floor
