"""One update of the weights, and the order of the data."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from training_models import weights

from scoresde.model import Preconditioned
from scoresde.nets import MLP, UNet, UViT
from scoresde.options import Optim
from scoresde.sde import VPSDE
from scoresde.training import Update, muon
from scoresde.training.muon import orthogonalised
from scoresde.training.optimizer import hidden
from scoresde.training.stream import Stream

# One update


def test_update_clips_the_global_norm() -> None:
    net = nn.Linear(3, 2)
    for clip, scale in ((1.0, 1e3), (0.5, 1.0), (0, 1.0)):
        update = Update(net, Optim(clip=clip, ema=0))
        loss = scale * (net.weight.sum() + 2 * net.bias.sum())
        norm = update.step(loss)
        raw = scale * math.sqrt(6 + 4 * 2)
        moments = [update.optimizer.adamw.state[p]["exp_avg"] for p in net.parameters()]
        # Adam's first moment after one step is 0.1 of the gradient that came to it.
        seen = 10 * torch.cat([m.flatten() for m in moments]).norm().item()
        assert seen == pytest.approx(min(clip or raw, raw), rel=1e-4)
        assert norm.item() == pytest.approx(raw, rel=1e-5)
        assert all(p.grad is None for p in net.parameters())


def test_update_is_adamw_and_averages() -> None:
    net = nn.Linear(2, 1)
    other = copy.deepcopy(net)
    update = Update(net, Optim(lr=0.1, clip=0, ema=1e-9, weight_decay=0.3))
    adamw = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.3, foreach=False)
    for _ in range(3):
        update.step(net(torch.ones(1, 2)).square().sum())
        other(torch.ones(1, 2)).square().sum().backward()
        adamw.step()
        adamw.zero_grad()
        for a, b in zip(update.ema.module.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(a, b)
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


# Muon


def stack(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh()))
    )


def test_muon_sets_all_singular_values_of_a_step_to_about_one() -> None:
    """The step is lr 0.2 sqrt(max(rows, columns)) U V^T, up to the five Newton-Schulz steps."""
    net = stack(3, 8, 5, 2)
    before = weights(net)
    update = Update(net, Optim(optimizer="muon", lr=0.1, clip=1e-3, ema=0))
    update.step(net(torch.randn(64, 3)).square().sum())
    step = (before["2.weight"] - net[2].weight.detach()) / (0.1 * 0.2 * math.sqrt(8))
    values = torch.linalg.svdvals(step)
    assert values.min() > 0.5 and values.max() < 1.3


def test_muon_trains_hidden_matrices_and_adamw_the_rest() -> None:
    net = nn.Sequential(
        nn.Embedding(4, 6), nn.Linear(6, 5), nn.Conv1d(5, 4, 3), nn.LayerNorm(4), nn.Linear(4, 2)
    )
    assert hidden(net) == ["2.weight"]
    assert hidden(MLP(2, width=8, depth=1, classes=3)) == [
        "condition.time.first.weight",
        "condition.time.second.weight",
        "blocks.0.first.weight",
        "blocks.0.film.weight",
        "blocks.0.second.weight",
    ]
    assert not {"enter.weight", "exit.weight"} & set(hidden(UNet(1, width=8, multipliers=(1,))))
    found = hidden(UViT(1, size=4, width=8, depth=1))
    assert not [n for n in found if n.split(".")[0] in ("enter", "exit", "patches", "position")]
    update = Update(Preconditioned(net, VPSDE()), Optim(optimizer="muon"))
    assert [p.shape for p in update.optimizer.muon.param_groups[0]["params"]] == [(4, 5, 3)]
    assert len(update.optimizer.adamw.param_groups[0]["params"]) == 8
    with pytest.raises(ValueError, match=r"optimizer: expected hidden matrices.*'adamw'"):
        Update(nn.Linear(3, 2), Optim(optimizer="muon"))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon is new in 2.9")
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_muon_in_bfloat16_is_torchs_on_the_matrix_of_a_convolution(
    clip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "_precision", lambda device: torch.bfloat16)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, (2, 3)), nn.Conv2d(6, 2, 1))
    flat = nn.Parameter(net[1].weight.detach().clone().flatten(1))
    update = Update(net, Optim(optimizer="muon", lr=0.1, weight_decay=0.2, clip=clip, ema=0))
    torchs = torch.optim.Muon([flat], lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
    for k in range(3):
        loss = net(torch.randn(3, 2, 8, 8)).square().mean()
        loss.backward()
        norm = update.gradient_norm()
        share = min(1.0, clip / float(norm)) if clip else 1.0
        flat.grad = share * net[1].weight.grad.clone().flatten(1)
        torchs.step()
        update.apply(norm)
        torch.testing.assert_close(net[1].weight.flatten(1), flat, rtol=0, atol=1e-3 * (k + 1))
        assert (net[1].weight.flatten(1) - flat).abs().mean() < 2e-5


@pytest.mark.parametrize("shape", [(6, 24), (24, 6), (9, 9)])
def test_orthogonalised_changes_the_singular_values_alone_as_its_polynomial_says(
    shape: tuple[int, int],
) -> None:
    """By a singular value decomposition in float64, for values over five orders of magnitude."""
    torch.manual_seed(0)
    rank = min(shape)
    u, _ = torch.linalg.qr(torch.randn(shape[0], rank, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(shape[1], rank, dtype=torch.float64))
    s = torch.logspace(0, -5, rank, dtype=torch.float64)
    values = s / s.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    found = orthogonalised(((u * s) @ v.T).float(), torch.float32)
    rounding = torch.finfo(torch.float32).eps * 3.4445**5  # the slope of the polynomial at 0
    torch.testing.assert_close(found.double(), (u * values) @ v.T, rtol=0, atol=rounding)


def test_muon_computes_in_float32_where_the_processor_emulates_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        muon._precision.cache_clear()
        monkeypatch.setattr(muon, "computes_bf16", lambda device, native=native: native)
        assert orthogonalised(torch.eye(3)).dtype == expected
    muon._precision.cache_clear()


def test_muon_sees_through_another_memory_format_and_weights_that_were_moved() -> None:
    nets = []
    for change in (0, 1):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 2, 3))
        if change:
            net.to(memory_format=torch.channels_last)
        update = Update(net, Optim(optimizer="muon", lr=0.1, ema=0))
        for k in range(2):
            if change and k:
                for parameter in net.parameters():
                    parameter.data = parameter.data.clone()
            update.step(net(torch.ones(1, 2, 8, 8)).square().mean())
        nets.append(net)
    one, other = (net[1].weight for net in nets)
    assert not other.is_contiguous()
    assert (one - other).norm() < 2e-2 * one.norm()


def rows() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, (2, 3)), nn.Conv2d(6, 2, 1))


def weight_in(layout: str, value: torch.Tensor) -> torch.Tensor:
    if layout == "channels_last":
        return value.to(memory_format=torch.channels_last)
    wide = torch.zeros(*value.shape[:-1], 2 * value.shape[-1])
    return wide[..., ::2].copy_(value) if layout == "gaps" else value


@pytest.mark.parametrize("of_gradient", ["contiguous", "channels_last"])
@pytest.mark.parametrize("of_weight", ["contiguous", "channels_last", "gaps"])
def test_a_step_of_muon_and_its_momentum_do_not_depend_on_the_layout(
    of_weight: str, of_gradient: str
) -> None:
    """The gradients are equal numbers, and so must be the steps, also after a resumption."""
    found: list[torch.Tensor] = []
    options = Optim(optimizer="muon", lr=0.1, clip=0, ema=0)
    for weight, gradient in (("contiguous", "contiguous"), (of_weight, of_gradient)):
        net, moments = rows(), {}
        for part in range(2):  # the second one goes on in another layout
            layout = weight if part == 0 else "contiguous"
            net[1].weight.data = weight_in(layout, net[1].weight.detach().contiguous().clone())
            update = Update(net, options)
            if moments:
                update.optimizer.restore(moments, "here")
            for k in range(2):
                for p in net.parameters():
                    p.grad = torch.ones_like(p)
                torch.manual_seed(2 * part + k)
                net[1].weight.grad = weight_in(gradient, torch.randn(6, 4, 2, 3))
                update.apply()
            moments = {n: v.clone() for n, v in update.optimizer.tensors().items()}
        assert net[1].weight.is_contiguous()
        found += [net[1].weight.detach(), moments["1.weight.momentum_buffer"]]
    torch.testing.assert_close(found[2:], found[:2], rtol=0, atol=0)


def test_an_attribute_ends_of_another_meaning_names_no_layers() -> None:
    net = stack(3, 8, 5, 2)
    for value in (7, torch.ones(3), ("8", 2), ("no_such",), "2", ()):
        net.ends = value
        assert hidden(net) == ["2.weight"]
    net.ends = ("0", "2")
    assert hidden(net) == ["4.weight"]


def test_the_state_of_muon_is_not_taken_for_one_of_adamw() -> None:
    net = stack(3, 8, 5, 2)
    states = {}
    for name in ("adamw", "muon"):
        update = Update(net, Optim(optimizer=name))
        update.step(net(torch.ones(2, 3)).sum())
        states[name] = update.optimizer.tensors()
    assert "2.weight.momentum_buffer" in states["muon"]
    for own, other in (("adamw", "muon"), ("muon", "adamw")):
        fresh = Update(net, Optim(optimizer=own))
        match = rf"optimizer\.2\.weight in here: .*a state of {own}.*resume with .*'{other}'"
        with pytest.raises(ValueError, match=match):
            fresh.optimizer.restore(states[other], "here")


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
