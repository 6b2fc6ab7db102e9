"""Averages whose length is chosen after training."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training_models import points, poisoned, run, same, small

from scoresde import _progress
from scoresde.training import PowerEMA, posthoc_ema
from scoresde.training.posthoc_ema import exponent, weights_of
from scoresde.training.update import Update


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94), (1 / 12**0.5, 0.0)])
def test_the_exponents_of_the_paper(width: float, gamma: float) -> None:
    found = exponent(width)
    assert found == pytest.approx(gamma, abs=0.006)
    assert math.sqrt(found + 1) / (found + 2) / math.sqrt(found + 3) == pytest.approx(width)


def test_the_profile_is_that_of_the_power() -> None:
    """The weights of the steps are the integrals of (gamma + 1) s^gamma / t^(gamma + 1)."""
    steps, net = 30, nn.Linear(30, 1, bias=False).double()
    mean = PowerEMA(net, 0.1)
    for s in range(steps):
        with torch.no_grad():
            net.weight.copy_(torch.eye(steps, dtype=torch.float64)[s : s + 1])
        mean.update(net)
    s = torch.arange(steps + 1, dtype=torch.float64) / steps
    expected = (s ** (mean.gamma + 1)).diff()
    torch.testing.assert_close(mean.tensors["weight"][0], expected, rtol=1e-12, atol=1e-14)


def test_weights_of_a_profile_that_is_there() -> None:
    steps = [float(s) for s in range(10, 101, 10)]
    times, gammas = [s for s in steps for _ in range(2)], [16.97, 6.94] * 10
    found, missed = weights_of(times, gammas, 100.0, 6.94)
    assert missed < 1e-6
    expected = torch.zeros(20, dtype=torch.float64)
    expected[-1] = 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # Against quadrature on a fine grid: the best combination of sampled profiles.
    s = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 2000
    wanted = 11.0 * s**10.0 / 100**11.0
    columns = [(g + 1) * (s / t) ** g / t * (s <= t) for t, g in zip(times, gammas, strict=True)]
    a = torch.stack(columns, 1)
    solved = torch.linalg.lstsq(a, wanted[:, None]).solution[:, 0]
    found, missed = weights_of(times, gammas, 100.0, 10.0)
    residual = (a @ found - wanted).norm() / wanted.norm()
    assert missed == pytest.approx(float(residual), rel=1e-3)
    assert float(residual) == pytest.approx(
        float((a @ solved - wanted).norm() / wanted.norm()), rel=1e-3
    )


def test_any_length_after_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against averages of these lengths that were tracked all along: error / norm of weights."""
    bounds = {0.05: 1e-6, 0.06: 1e-3, 0.08: 1e-3, 0.10: 1e-6, 0.15: 1e-2}
    tracked: list[PowerEMA] = []
    apply = Update.apply

    def tracking(self: Update, norm: Tensor | None = None) -> Tensor:
        norm = apply(self, norm)
        if not tracked:
            tracked.extend(PowerEMA(self.model, width) for width in bounds)
        for mean in tracked:
            mean.update(self.model)
        return norm

    monkeypatch.setattr(Update, "apply", tracking)
    options = {"steps": 200, "lr": 3e-2, "schedule": "constant", "checkpoint_every": 1000}
    trainer = run(tmp_path, model := small(), snapshot_every=10, **options)
    trainer.fit()

    def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
        return math.sqrt(sum(float((a[k] - b[k]).detach().square().sum()) for k in b))

    raw = dict(model.named_parameters())
    for mean in tracked:
        found = dict(posthoc_ema(tmp_path, mean.width).named_parameters())
        wrong = distance(found, mean.tensors) / distance(raw, mean.tensors)
        assert wrong < bounds[mean.width]


def test_a_snapshot_before_the_first_update_has_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = poisoned(points(), {1, 2, 3, 4})
    trainer = run(tmp_path, loss=loss, steps=24, snapshot_every=3, batch_size=64)
    trainer.fit()
    with pytest.raises(ValueError, match=r"step: expected one after the first update, got 3"):
        posthoc_ema(tmp_path, 0.1, step=3)
    monkeypatch.setattr(_progress, "_watched", lambda: True)
    found = posthoc_ema(tmp_path, 0.10, progress=True)
    done, total = re.findall(r"posthoc_ema: .*?(\d+)/(\d+) \[", capsys.readouterr().err)[-1]
    assert done == total != "0"
    kept = load_file(tmp_path / "snapshots" / "000000024" / "track1.safetensors")
    for name, value in found.named_parameters():
        torch.testing.assert_close(value.detach(), kept[name], rtol=1e-5, atol=1e-6)


def test_what_cannot_be_averaged_afterwards(tmp_path: Path) -> None:
    run(tmp_path, steps=4).fit()
    with pytest.raises(FileNotFoundError, match=r"out: expected snapshots.*snapshot_every"):
        posthoc_ema(tmp_path, 0.1)
    with pytest.raises(FileNotFoundError, match=r"path: expected a checkpoint folder"):
        posthoc_ema(tmp_path / "none", 0.1)
    run(tmp_path, steps=20, snapshot_every=5).fit()
    assert same(posthoc_ema(tmp_path, 0.1, step=20), posthoc_ema(tmp_path, 0.1))
    assert not same(posthoc_ema(tmp_path, 0.1, step=10), posthoc_ema(tmp_path, 0.1))
    with pytest.raises(ValueError, match=r"step: expected one of 5, 10, 15, 20, got 7"):
        posthoc_ema(tmp_path, 0.1, step=7)
    with pytest.raises(ValueError, match=r"width: expected a width below 0\.2886"):
        posthoc_ema(tmp_path, 0.3)
    with pytest.raises(ValueError, match=r"width: expected one in reach, got 0\.01, .* miss by"):
        posthoc_ema(tmp_path, 0.01)
    with pytest.raises(ValueError, match=r"widths: expected \[0\.05, 0\.1\], as in .* got \[\]"):
        run(tmp_path, steps=30).fit(resume=True)
    config = tmp_path / "snapshots" / "000000010" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"updates": 3}))
    with pytest.raises(ValueError, match=r"config\.json: expected an intact file.*no snapshot"):
        posthoc_ema(tmp_path, 0.1)
