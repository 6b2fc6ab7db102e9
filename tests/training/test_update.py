"""One update of the weights, and the order of the data."""

import copy
import math

import pytest
import torch
from torch import nn
from training_models import same, weights

from scoresde.options import Optim
from scoresde.training import Update
from scoresde.training.stream import Stream

# One update


def test_update_clips_the_global_norm() -> None:
    net = nn.Linear(3, 2)
    for clip, scale in ((1.0, 1e3), (0.5, 1.0), (None, 1.0)):
        update = Update(net, Optim(clip=clip, ema=None))
        loss = scale * (net.weight.sum() + 2 * net.bias.sum())
        norm = update.step(loss)
        raw = scale * math.sqrt(6 + 4 * 2)
        moments = [update.optimizer.state[p]["exp_avg"] for p in net.parameters()]
        # Adam's first moment after one step is 0.1 of the gradient that came to it.
        seen = 10 * torch.cat([m.flatten() for m in moments]).norm().item()
        assert seen == pytest.approx(raw if clip is None else min(clip, raw), rel=1e-4)
        assert norm.item() == pytest.approx(raw, rel=1e-5)
        assert all(p.grad is None for p in net.parameters())


def test_update_is_adamw_and_averages() -> None:
    net = nn.Linear(2, 1)
    other = copy.deepcopy(net)
    update = Update(net, Optim(lr=0.1, clip=None, ema=0.0, weight_decay=0.3))
    adamw = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.3, foreach=False)
    for _ in range(3):
        update.step(net(torch.ones(1, 2)).square().sum())
        other(torch.ones(1, 2)).square().sum().backward()
        adamw.step()
        adamw.zero_grad()
        assert same(update.ema.module, net)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_update_does_not_train_what_is_frozen() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    net[0].requires_grad_(False)
    before = weights(net[0])
    update = Update(net, Optim(lr=0.1))
    update.step(net(torch.ones(1, 2)).sum())
    assert all(torch.equal(v, before[k]) for k, v in net[0].state_dict().items())
    with pytest.raises(ValueError, match=r"model: expected parameters to train, got 'none'"):
        Update(net.requires_grad_(False))


# The order of the data


@pytest.mark.parametrize(("samples", "batch"), [(10, 3), (10, 10), (4, 11), (1, 3), (7, 1)])
def test_every_row_is_seen_once_per_epoch(samples: int, batch: int) -> None:
    stream = Stream(samples, batch, seed=3)
    batches = [stream.rows(k) for k in range(5 * samples)]
    assert all(b.shape == (batch,) for b in batches)
    rows = torch.cat(batches)
    epochs = rows[: len(rows) // samples * samples].view(-1, samples)
    assert (epochs.sort(dim=1).values == torch.arange(samples)).all()
    # The position is a number: in any order, from a new object, the same rows.
    again = Stream(samples, batch, seed=3)
    assert all(torch.equal(again.rows(k), batches[k]) for k in reversed(range(len(batches))))


def test_orders_and_keys_differ_between_epochs_and_seeds() -> None:
    first, other = Stream(50, 50, 0), Stream(50, 50, 1)
    orders = {tuple(s.rows(k).tolist()) for s in (first, other) for k in range(10)}
    assert len(orders) == 20
    keys = [s.key(k) for s in (first, other) for k in range(1000)]
    assert len(set(keys)) == 2000 and all(0 <= key < 2**32 for key in keys)
