"""Checkpoints of score_sde: averaged weights, every name and shape, and no code."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import Features, randn
from torch import Tensor, nn

from scoresde.adapters import load_score_sde


class Network(Features):
    """With a buffer and a frozen parameter, which their averages leave out."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(2, seed=seed)
        self.register_buffer("sigmas", randn(3, seed=seed + 7))
        self.fixed = nn.Parameter(randn(2, seed=seed + 8), requires_grad=False)


def write(path: Path, net: nn.Module, shadow: list[Tensor] | None = None, **more: Any) -> Path:
    """As save_checkpoint writes it, from a DataParallel network."""
    weights = OrderedDict((f"module.{k}", v) for k, v in net.state_dict().items())
    trained = [p for p in net.parameters() if p.requires_grad]
    averages = [2.0 * p.detach() for p in trained] if shadow is None else shadow
    ema = {"decay": 0.9999, "num_updates": 5, "shadow_params": averages}
    optimizer = torch.optim.Adam(trained).state_dict()
    state = {"optimizer": optimizer, "model": weights, "ema": ema, "step": 7, **more}
    torch.save(state, path)
    return path


def test_averages_replace_the_trained_parameters_alone(tmp_path: Path) -> None:
    source, net = Network(seed=1), Network(seed=2)
    file = write(tmp_path / "checkpoint_8.pth", source)
    assert load_score_sde(net, file) is net and not net.training
    assert torch.equal(net.weight, 2.0 * source.weight)
    assert torch.equal(net.frequency, 2.0 * source.frequency)
    assert torch.equal(net.fixed, source.fixed) and torch.equal(net.sigmas, source.sigmas)
    raw = load_score_sde(Network(seed=3), file, averaged=False)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in raw.state_dict().items())
    wrapped = nn.DataParallel(Network(seed=4))
    load_score_sde(wrapped, file)
    assert torch.equal(wrapped.module.weight, net.weight)


class Code:
    """An object whose pickle would call a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not be printed",)


def test_files_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Network()
    with pytest.raises(FileNotFoundError, match="which is not there"):
        load_score_sde(net, tmp_path / "checkpoint_9.pth")
    with pytest.raises(FileNotFoundError, match="which is a folder"):
        load_score_sde(net, tmp_path)
    file = write(tmp_path / "code.pth", net, extra=Code())
    with pytest.raises(ValueError, match="path: expected a file of tensors"):
        load_score_sde(net, file)
    assert capsys.readouterr().out == ""
    (tmp_path / "text.pth").write_text("none")
    with pytest.raises(ValueError, match="path: expected a file of tensors"):
        load_score_sde(net, tmp_path / "text.pth")
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="expected a table of model, ema and step, got weight"):
        load_score_sde(net, tmp_path / "weights.pth")
    other = write(tmp_path / "other.pth", Features(3))
    with pytest.raises(ValueError, match="missing: fixed, sigmas"):
        load_score_sde(net, other)
    fewer = write(tmp_path / "fewer.pth", net, [net.weight.detach()])
    with pytest.raises(ValueError, match="expected 2 averages, one a trained parameter"):
        load_score_sde(net, fewer)
    swapped = [net.frequency.detach(), net.weight.detach()]
    with pytest.raises(ValueError, match=r"an average of shape \(2, 2\) for weight"):
        load_score_sde(net, write(tmp_path / "swapped.pth", net, swapped))
    with pytest.raises(TypeError, match="net: expected a Module"):
        load_score_sde("net", file)  # type: ignore[arg-type]
