"""Training on: from a loaded model, with frozen parts, and with other settings."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from test_resume import at_call, equal_folders
from training_models import points, run, same, small, trained, weights

from scoresde.training import Trainer, load

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
    with pytest.raises(TypeError, match=r"freeze: expected names.*pass \('embed\.\*',\)"):
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
    assert step < 1.1e-3  # of one step of Adam
    assert found.data.std == pytest.approx(Trainer(small(), data, steps=1).summary.std)
