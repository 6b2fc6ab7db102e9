"""Each row of the benchmark of recipes changes one thing and leaves the rest to the recipe."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from benchmarks import recipe
from benchmarks.recipe import ROWS, Kind, Row, trainer_of
from scoresde.losses import UniformTime
from scoresde.quantisation import Quantisation

OPTIM = {
    "optimizer": {"optimizer", "lr"},  # AdamW has a rate of its own
    "lr": {"lr"},
    "ema": {"ema", "ema_width"},
    "batch": {"batch_size", "warmup"},
    "precision": {"precision"},
}
LOSS = {"time": {"time"}, "weighting": {"weighting"}, "augment": {"augment"}}


@pytest.fixture(scope="module")
def kind() -> Kind:
    x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Kind(40, x, x, 16, lambda samples: float(samples.mean()), x, "tiny", Quantisation(17))


def changed(kind: Kind, row: Row) -> tuple[set[str], set[str]]:
    """The fields of the options that differ from those of the first row."""
    base, other = (trainer_of(kind, r, 0, 40) for r in (ROWS[0], row))
    pairs = ((asdict(base.optim), asdict(other.optim)), (vars(base.loss), vars(other.loss)))
    first, second = ({k for k in a if a[k] != b[k]} for a, b in pairs)
    return first, second


ALONE = [row for row in ROWS if row.factor not in ("earlier", "objective")]


@pytest.mark.parametrize("row", ALONE, ids=lambda r: r.name)
def test_a_row_changes_its_factor_alone(kind: Kind, row: Row) -> None:
    optim, loss = changed(kind, row)
    assert optim <= OPTIM.get(row.factor, set())
    assert loss <= LOSS.get(row.factor, set())


@pytest.mark.parametrize("row", [r for r in ROWS if r.factor == "objective"], ids=lambda r: r.name)
def test_the_rows_of_the_likelihood_take_its_recipe(kind: Kind, row: Row) -> None:
    trainer = trainer_of(kind, row, 0, 40)
    assert trainer.loss.objective == "likelihood"
    assert trainer.loss.weighting == "likelihood"
    seen = len(trainer.model.net.config["input_fourier"])
    assert (seen > 0) == ("without features" not in row.name)


def test_rates_and_batches_are_relative_to_the_recipe(kind: Kind) -> None:
    base = trainer_of(kind, ROWS[0], 0, 40)
    double = trainer_of(kind, Row("lr", "x", rate=2.0), 0, 40)
    assert double.optim.lr == 2 * base.optim.lr
    half = trainer_of(kind, Row("batch", "x", batch=0.5), 0, 40)
    assert half.optim.batch_size == base.optim.batch_size // 2
    assert half.steps == 80


def test_the_first_version_is_a_row(kind: Kind) -> None:
    row = next(r for r in ROWS if r.predicts == "eps" and r.factor == "earlier")
    trainer = trainer_of(kind, row, 0, 40)
    assert (trainer.optim.optimizer, trainer.optim.lr, trainer.optim.ema) == ("adamw", 1e-3, 0.999)
    assert trainer.optim.batch_size == 128
    assert trainer.loss.weighting == "eps"
    assert trainer.loss.time == UniformTime()
    assert trainer.model.predicts == "eps"


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert set(recipe.MEASURES) == set(recipe.KINDS)
