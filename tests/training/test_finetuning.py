"""Training on: from a loaded model, with frozen parts, and with other settings."""

from __future__ import annotations

import math
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_resume import at_call, equal_folders
from training_models import points, run, same, small, trained, weights

from scoresde.data import ArrayRows, Data, LazyData, Scaling, summarise, table
from scoresde.model import Preconditioned
from scoresde.nets import MLP, Vector
from scoresde.quantisation import Quantisation
from scoresde.sde import VPSDE
from scoresde.training import Trainer, load, recipe_for
from scoresde.training.matching import in_units_of, matched

# Frozen parts


def test_frozen_parameters_do_not_move_and_all_others_do() -> None:
    before = weights(model := small())
    found = trained(model=model, freeze=("enter.*", "blocks.0.fir?t.weight"), weight_decay=0.1)
    held = {"net.enter.weight", "net.enter.bias", "net.blocks.0.first.weight"}
    moved = {name for name, value in weights(model).items() if not value.equal(before[name])}
    assert moved == {name for name, _ in model.named_parameters()} - held
    for name in held:
        assert torch.equal(weights(found)[name], before[name])
    assert all(p.requires_grad for p in [*model.parameters(), *found.parameters()])


def test_the_gradient_of_what_is_frozen_counts_for_nothing() -> None:
    """The norm, the clipping and the others' steps are those of a net that holds them itself."""
    by_pattern = run(None, model := small(), freeze=("exit.*",), clip=0.1)
    by_pattern.fit()
    other = small()
    other.net.exit.requires_grad_(False)
    by_hand = run(None, other, clip=0.1)
    found = by_hand.fit()
    assert same(model, other) and by_pattern.metrics == by_hand.metrics
    assert not any(p.requires_grad for p in found.net.exit.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_frozen_run_resumes_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    """With Muon nothing is left to AdamW here."""
    ends = ("enter.*", "exit.*", "norm.*", "*.bias", "*.norm.*")
    changes = {"freeze": ends, "optimizer": optimizer, "lr": 0.02}
    whole = run(tmp_path / "whole", **changes).fit()
    loss = at_call(7, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", loss=loss, **changes).fit()
    again = run(tmp_path / "parts", small(seed=7), **changes)
    assert same(again.fit(resume=True), whole)
    assert equal_folders(tmp_path / "whole" / "checkpoint", tmp_path / "parts" / "checkpoint")


def test_a_pattern_that_matches_nothing_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"freeze: .*enter\.weight.*exit\.bias.*got 'emb\.\*'"):
        run(None, freeze=("enter.*", "emb.*"))
    with pytest.raises(ValueError, match=r"freeze: expected parameters left to train"):
        run(None, freeze=("*",))
    with pytest.raises(TypeError, match=r"freeze: expected names.*pass \('enter\.\*',\)"):
        run(None, freeze="embed.*")


# Other settings


def test_more_steps_plan_the_schedule_anew_and_say_so(tmp_path: Path) -> None:
    run(tmp_path, warmup=2, lr=0.01).fit()
    longer = run(tmp_path, small(seed=5), warmup=2, lr=0.02, steps=20, log_every=1)
    text = r"goes on from step 12 with other settings: steps 12 -> 20, lr 0\.01 -> 0\.02$"
    with pytest.warns(UserWarning, match=text):
        longer.fit(resume=True)
    assert longer.changes == {"steps": (12, 20), "lr": (0.01, 0.02)}
    rates = {step: lr for step, _, lr in longer.history}
    assert [rates[step + 1] for step in range(12, 20)] == [longer.lr_at(k) for k in range(12, 20)]
    assert longer.lr_at(12) > 0.005  # of the longer cosine, that of the shorter one is 0


def test_a_run_that_goes_on_as_it_was_says_nothing(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    run(tmp_path).fit()
    again = run(tmp_path)
    again.fit(resume=True)
    assert again.changes == {} and not [w for w in recwarn if "settings" in str(w.message)]


# From a loaded model


def test_a_loaded_model_is_trained_on_and_its_average_begins_at_its_weights(
    tmp_path: Path,
) -> None:
    first = run(tmp_path).fit()
    loaded = load(tmp_path)
    assert same(loaded, first)
    data = points(64, seed=3)
    found = Trainer(loaded, data, steps=1).fit()
    assert not same(found, first) and not loaded.training
    step = max(
        float((a - b).detach().abs().max())
        for a, b in zip(found.parameters(), first.parameters(), strict=True)
    )
    rate = recipe_for((2,)).lr
    assert 0.5 * rate < step < 1.1 * rate  # of one step of Adam
    assert found.data.std == pytest.approx(Trainer(small(), data, steps=1).summary.std)


# Units


def standard(mean: float, std: float, n: int = 64, seed: int = 0) -> Data:
    return Data(mean + std * points(n, seed=seed)).standardised()


def test_new_data_are_brought_to_the_units_of_the_first_ones(tmp_path: Path) -> None:
    first, other = standard(100.0, 7.0), standard(103.0, 5.0, seed=3)
    run(tmp_path, data=first, validation=other).fit()
    loaded = load(tmp_path)
    trainer = Trainer(loaded, other, steps=2, validation=other)
    raw = 103.0 + 5.0 * points(seed=3)
    expected = first.scaling.encode(raw)
    torch.testing.assert_close(trainer.data.x, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trainer.validation.data.x, expected, rtol=1e-5, atol=1e-5)
    found = trainer.fit()
    torch.testing.assert_close(found.data.scaling.mean, first.scaling.mean)
    torch.testing.assert_close(found.data.decode(expected), raw, rtol=1e-5, atol=1e-5)
    lazy = LazyData(ArrayRows(raw.double().numpy())).standardised()
    rows = Trainer(loaded, lazy, steps=1).data.x[torch.arange(64)]
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)
    # Values without a scaling are in model units, whose meaning stays.
    plain = Trainer(loaded, points(seed=9), steps=1)
    assert torch.equal(plain.data.x, points(seed=9))
    assert plain.fit().data.scaling.to_dict() == first.scaling.to_dict()


def test_units_that_cannot_be_those_of_the_first_data_are_refused(tmp_path: Path) -> None:
    run(tmp_path).fit()
    loaded = load(tmp_path)
    with pytest.raises(ValueError, match=r"data: expected values in the units of.*standardise=F"):
        Trainer(loaded, standard(100.0, 7.0), steps=1)
    loaded.data = None
    Trainer(loaded, standard(100.0, 7.0), steps=1)
    scaling = replace(standard(5.0, 2.0).scaling, columns=("a", "b"))
    run(tmp_path, data=Data(points(), scaling=scaling)).fit()
    other = Data(points(), scaling=replace(scaling, columns=("a", "c")))
    with pytest.raises(
        ValueError, match=r"data: expected the 2 columns a, b of .*got 2: a, c; take"
    ):
        Trainer(load(tmp_path), other, steps=1)


def test_levels_and_standardised_values_are_not_in_the_same_units() -> None:
    """Bytes from 100 to 131 have a standard deviation of about 0.07 as levels and 1 otherwise."""
    levels = torch.randint(100, 132, (64, 2), generator=torch.Generator().manual_seed(0))
    bits = Quantisation(256)
    discrete = Data(bits.encode(levels), quantisation=bits)
    standardised = Data(levels.float()).standardised()
    model = Trainer(small(), discrete, steps=1).fit()
    with pytest.raises(
        ValueError, match=r"^data: .*Quantisation\(levels=256.*got standardised ones"
    ):
        Trainer(model, standardised, steps=1)
    with pytest.raises(
        ValueError, match=r"^validation: .*training data, Quantisation\(levels=256"
    ):
        Trainer(small(), discrete, steps=1, validation=standardised)
    with pytest.raises(ValueError, match=r"^data: .*were standardised, got Quantisation"):
        Trainer(Trainer(small(), standardised, steps=1).fit(), discrete, steps=1)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_pictures_brought_to_the_range_of_the_levels_are_in_their_units(top: float) -> None:
    levels = torch.arange(256).reshape(64, 1, 2, 2)
    half = torch.tensor(top / 2, dtype=torch.float64)
    bits = Quantisation(256)
    pictures = Data(bits.encode(levels), scaling=Scaling(half, half))
    known = summarise(Data(bits.encode(levels), quantisation=bits))
    assert in_units_of(pictures, known) is pictures
    assert in_units_of(Data(pictures.x, quantisation=bits), summarise(pictures)).scaling is None
    one_more = Data(pictures.x, scaling=Scaling(half + 1, half))
    with pytest.raises(ValueError, match=r"^data: expected values in the units"):
        in_units_of(one_more, known)


def test_standardised_data_of_another_shape_are_refused() -> None:
    model = Trainer(small(), standard(100.0, 7.0), steps=1).fit()
    wide = Data(100 + 7 * points(64, 3)).standardised()
    with pytest.raises(ValueError, match=r"^data: expected samples of shape \(2,\), .*got \(3,\)"):
        Trainer(model, wide, steps=1)


# Classes and columns


def named(*names: str, seed: int = 0) -> Data:
    return Data.of((points(len(names), seed=seed), {"label": list(names)}))


def test_classes_of_new_and_of_validation_data_are_matched_by_name() -> None:
    """The numbers of the classes follow the names that occur: here b is class 0 of its data."""
    model = small(classes=2)
    only_b = named("b", "b", "b", seed=1)
    trainer = Trainer(model, named("a", "b", "a", "b"), steps=1, validation=only_b)
    assert only_b.cond["label"].tolist() == [0, 0, 0]
    assert trainer.validation.data.cond["label"].tolist() == [1, 1, 1]
    again = Trainer(trainer.fit(), only_b, steps=1, validation=named("a", "b"))
    assert again.data.cond["label"].tolist() == [1, 1, 1]
    assert again.validation.data.cond["label"].tolist() == [0, 1]
    assert again.summary.class_names == ("a", "b") and again.summary.class_counts == (0, 3)


def test_classes_without_a_match_are_refused_by_name() -> None:
    model, data = small(classes=2), named("a", "b", "a", "b")
    with pytest.raises(ValueError, match=r"^validation: .*among a, b, got 'also c'; leave their"):
        Trainer(model, data, steps=1, validation=named("b", "c"))
    model = Trainer(model, data, steps=1).fit()
    with pytest.raises(
        ValueError, match=r"^data: .*among a, b, got 'also c'; .*class_names=\.\.\."
    ):
        Trainer(model, named("b", "c"), steps=1)
    model.data = replace(model.data, class_names=("c", "b"))
    renamed = Trainer(model, named("b", "c"), steps=1)
    assert renamed.data.cond["label"].tolist() == [1, 0]


def weather(skies: str, **columns: list[float]) -> Data:
    """Rows with a wind to model, given their sky and the columns."""
    rows = {"wind": points(len(skies), 1)[:, 0].tolist(), "sky": list(skies), **columns}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of the gap and of the categories
        return table(rows, condition=[*columns, "sky"], standardise=False)


def test_columns_of_a_condition_are_matched_by_name(tmp_path: Path) -> None:
    """The entries of v, u and the sky are 0 or 1 or numbers, which a wrong order would change."""
    u, v, skies = [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, math.nan, 8.0], "abca"
    data, other = weather(skies, u=u, v=v), weather("caca", v=v, u=u)
    net = MLP(1, width=8, depth=1, conditions={"given": Vector(5)})
    run(tmp_path, Preconditioned(net, VPSDE()), data=data, validation=other).fit()
    expected = weather("caca", u=u, v=v).cond["given"]  # without the column of b, which is 0
    expected = torch.cat([expected[:, :3], torch.zeros(4, 1), expected[:, 3:]], dim=1)
    for found in (
        run(None, Preconditioned(net, VPSDE()), data=data, validation=other).validation.data,
        run(None, load(tmp_path), data=other).data,
    ):
        torch.testing.assert_close(found.cond["given"], expected, equal_nan=True, rtol=0, atol=0)
        assert found.cond_columns == data.cond_columns
    strange = weather("adad", u=u, v=v)
    got = r"got u, v, sky \(a, d\); take these"
    with pytest.raises(
        ValueError, match=r"^data: condition 'given': .*u, v, sky \(a, b, c\), " + got
    ):
        run(None, load(tmp_path), data=strange)
    with pytest.raises(
        ValueError, match=r"^validation: condition 'given': .*got u, sky \(a, b, c"
    ):
        run(None, Preconditioned(net, VPSDE()), data=data, validation=weather(skies, u=u))


def test_a_category_that_is_not_given_stays_so_where_categories_are_added() -> None:
    three, two = {"s": {"sky": ("a", "b", "c")}}, {"s": {"sky": ("a", "c")}}
    known = summarise(Data(points(2), {"s": torch.eye(3)[:2]}, cond_columns=three))
    value = torch.tensor([[0.0, 1.0], [math.nan, math.nan]])
    found = matched(Data(points(2), {"s": value}, cond_columns=two), known).cond["s"]
    assert found[0].tolist() == [0.0, 0.0, 1.0] and bool(found[1].isnan().all())


# Conditions


def test_the_scale_of_conditions_is_measured_once(tmp_path: Path) -> None:
    def build() -> Preconditioned:
        return Preconditioned(MLP(2, width=8, depth=1, conditions={"y": Vector(1)}), VPSDE())

    y = 50.0 + 3.0 * points(64, 1)
    run(tmp_path, model := build(), data=(points(), {"y": y})).fit()
    scale = model.net.condition.scale("y")
    assert float(scale.mean) == pytest.approx(float(y.mean()), rel=1e-5)
    assert float(scale.std) == pytest.approx(float(y.std(correction=0)), rel=1e-4)
    assert same(load(tmp_path).net.condition.scales, model.net.condition.scales)
    Trainer(again := load(tmp_path), (points(), {"y": y + 20}), steps=2).fit()
    assert same(again.net.condition.scales, model.net.condition.scales)
