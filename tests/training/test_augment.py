"""Augmentation of images that samples do not show: what is done, and what the network is told."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from training_models import run, same

from scoresde.losses import dsm_loss
from scoresde.model import Preconditioned
from scoresde.nets import UNet, Vector
from scoresde.options import Loss
from scoresde.sampler import ReverseSampler
from scoresde.sde import VPSDE
from scoresde.training import RECIPES, Trainer
from scoresde.training.augment import LABELS, augmented, transformed


def images(n: int, height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(n, 1, height, width, generator=torch.Generator().manual_seed(0))


def label(**given: float) -> Tensor:
    names = [name.replace(" - 1", "").replace(" ", "_") for name in LABELS]
    return torch.tensor([[given.get(name, 0.0) for name in names]])


def network(size: int = len(LABELS)) -> UNet:
    torch.manual_seed(0)
    conditions = {"augment": Vector(size)}
    return UNet(1, width=8, multipliers=(1,), blocks=1, conditions=conditions)


# What is done


def test_zeros_do_nothing_and_a_mirror_moves_pixels_to_the_bit() -> None:
    x = images(3, 6, 8)
    assert torch.equal(transformed(x, torch.zeros(3, 6)), x)
    assert torch.equal(transformed(x, label(flip=1.0).expand(3, 6)), x.flip(3))


def test_shifts_are_in_eighths_of_the_image() -> None:
    x = images(1, 8, 16)
    moved = transformed(x, label(right=1.0))
    torch.testing.assert_close(moved[..., 2:], x[..., :-2], atol=1e-5, rtol=0)
    moved = transformed(x, label(down=-2.0))
    torch.testing.assert_close(moved[:, :, :-2], x[:, :, 2:], atol=1e-5, rtol=0)


def test_a_quarter_turn_and_a_half_turn_of_an_image_that_is_not_square() -> None:
    x = images(1)
    turned = transformed(x, label(cos=-1.0, sin=1.0))
    torch.testing.assert_close(turned, x.rot90(-1, (2, 3)), atol=1e-5, rtol=0)
    x = images(1, 4, 10)
    turned = transformed(x, label(cos=-2.0))
    torch.testing.assert_close(turned, x.flip(2, 3), atol=1e-5, rtol=0)
    # A quarter turn about the centre (1.5, 4.5) takes (row, column) (1, 5) to (2, 5).
    point = torch.zeros(1, 1, 4, 10)
    point[..., 1, 5] = 1.0
    turned = transformed(point, label(cos=-1.0, sin=1.0))
    assert float(turned[0, 0, 2, 5]) == pytest.approx(1.0, abs=1e-5)


def test_a_scale_magnifies_about_the_centre_and_comes_before_the_shift() -> None:
    place = (torch.arange(8) - 3.5).expand(1, 1, 8, 8)  # the column, from the centre
    big = transformed(place, label(log2_scale=5.0))  # twice
    torch.testing.assert_close(big[..., 1:-1], place[..., 1:-1] / 2, atol=1e-5, rtol=0)
    both = transformed(place, label(log2_scale=5.0, right=1.0))
    torch.testing.assert_close(both[..., 2:-1], (place[..., 2:-1] - 1) / 2, atol=1e-5, rtol=0)


# What the network is told


def test_each_image_is_what_its_label_says() -> None:
    x = images(200)
    moved, told = augmented(x, 0.3, torch.Generator().manual_seed(1))
    untouched = told.isnan().all(1)
    assert torch.equal(untouched, told.isnan().any(1))
    assert float(untouched.float().mean()) == pytest.approx(0.7**4, abs=0.1)
    assert torch.equal(moved[untouched], x[untouched])
    torch.testing.assert_close(moved[~untouched], transformed(x[~untouched], told[~untouched]))
    assert not (moved[~untouched] == x[~untouched]).flatten(1).all(1).any()
    given = told[~untouched]
    assert ((given[:, 2] + 1) ** 2 + given[:, 3] ** 2 - 1).abs().max() < 1e-5
    assert set(given[:, 0].tolist()) == {0.0, 1.0}
    for k in (1, 4, 5):
        drawn = given[given[:, k] != 0, k]
        assert 0.5 < float(drawn.std()) < 1.5 and abs(float(drawn.mean())) < 0.5
    still, none = augmented(x, 0.0, torch.Generator())
    assert torch.equal(still, x) and bool(none.isnan().all())


class Spy(nn.Module):
    """A network that records what it is told; it knows an image by its largest entry."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.condition = self.inner.condition
        self.config = {"classes": 1}
        self.told: list[tuple[Tensor, Tensor | None, Tensor]] = []

    def forward(
        self, x: Tensor, t: Tensor, augment: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        assert augment is not None and label is not None
        self.told.append((x.detach().clone(), augment, label))
        return self.inner(x, t, augment=augment)


def test_dropout_of_conditions_never_hides_a_transformation() -> None:
    """With all conditions dropped, the network still hears what was done to each image."""
    x, labels = images(64), torch.zeros(64, dtype=torch.int64)
    seen: list[Tensor] = []

    def loss(model: nn.Module, x0: Tensor, **options: object) -> Tensor:
        seen.append(x0.clone())
        return dsm_loss(model, x0, **options)

    model = Preconditioned(spy := Spy(), VPSDE(), null={"label": -1, "augment": math.nan})
    options = {"loss": loss, "augment": 0.5, "cond_dropout": 1.0, "batch_size": 64, "steps": 1}
    run(None, model, data=(x, {"label": labels}), **options).fit()
    ((_, told, dropped),) = spy.told
    assert bool((dropped == -1).all())
    rows = {tuple(row.flatten().tolist()) for row in x}
    same_as_before = [tuple(row.flatten().tolist()) in rows for row in seen[0]]
    assert same_as_before == told.isnan().all(1).tolist() and 0 < sum(same_as_before) < 64


def test_times_and_noise_are_those_without_augmentation_and_a_run_is_reproducible() -> None:
    options = {"steps": 3, "batch_size": 8, "data": images(20), "log_every": 1}
    losses = {}
    for p in (0.0, 0.4):
        one, two = (
            run(None, Preconditioned(network(), VPSDE()), augment=p, **options) for _ in "ab"
        )
        assert same(one.fit(), two.fit())
        losses[p] = [row[1] for row in one.history]
    # The untrained network predicts 0, so the first loss is that of the targets.
    assert losses[0.0] != losses[0.4]
    assert losses[0.0][0] == pytest.approx(losses[0.4][0], rel=0.5)


def test_a_sampler_needs_nothing_and_validation_sees_the_images_as_they_are() -> None:
    x = images(20)
    trained = run(None, Preconditioned(network(), VPSDE()), data=x, steps=3, augment=0.5)
    model = trained.fit()
    assert ReverseSampler(model.sde, model, steps=3).sample((2, 1, 8, 8), seed=0).shape[0] == 2
    plain, told = (
        run(None, model, data=x, steps=1, lr=1e-30, ema=0, validation=x, augment=p)
        for p in (0.0, 1.0)
    )
    plain.fit()
    told.fit()
    assert plain.validations == told.validations


# What is refused


def test_augmentation_needs_images_and_a_network_that_sees_it() -> None:
    x = images(20)
    plain = UNet(1, width=8, multipliers=(1,), blocks=1)
    with pytest.raises(ValueError, match=r"augment: expected a network with the cond.*Vector\(6"):
        run(None, Preconditioned(plain, VPSDE()), data=x, augment=0.1)
    with pytest.raises(ValueError, match=r"augment: expected a network with the condition"):
        run(None, Preconditioned(network(3), VPSDE()), data=x, augment=0.1)
    with pytest.raises(ValueError, match=r"augment: expected 0, for the data are no images"):
        run(None, augment=0.1)
    with pytest.raises(ValueError, match=r"augment: expected a probability in \[0, 1\], got 2"):
        Loss(augment=2)


def test_a_recipe_augments_where_the_network_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "image", "quality"
    monkeypatch.setitem(RECIPES, key, replace(RECIPES[key], augment=0.25))
    plain = UNet(1, width=8, multipliers=(1,), blocks=1)
    found = [
        Trainer(Preconditioned(net, VPSDE()), images(5001), steps=1).loss.augment
        for net in (network(), plain)
    ]
    assert found == [0.25, 0.0]
