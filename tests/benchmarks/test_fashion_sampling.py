"""The variances that the benchmark compares, and its table."""

from __future__ import annotations

import pytest
import torch

from benchmarks import fashion_sampling
from scoresde.data import Data


def test_variances_of_classes_and_of_their_means() -> None:
    """20 points of N(m_k, I) in 2,000 dimensions, where a mean of 20 has a variance of 100."""
    g = torch.Generator().manual_seed(0)
    label = torch.arange(200) % 10
    means = torch.zeros(10, 2000).index_fill_(1, torch.tensor(0), 1.0)
    means *= torch.arange(10.0)[:, None] * 10  # their variance is 100 var(0 ... 9) = 916.7
    noise = torch.randn(200, 2000, generator=g)
    within, between = fashion_sampling.variances(noise, label)
    assert within == pytest.approx(2000, rel=0.01)
    assert between == pytest.approx(0, abs=4)
    within, between = fashion_sampling.variances(noise + means[label], label)
    assert within == pytest.approx(2000, rel=0.01)
    assert between == pytest.approx(916.7, rel=0.03)


def test_detail_of_white_noise_and_of_a_plane() -> None:
    noise = 0.1 * torch.randn(50, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert fashion_sampling.detail(noise) == pytest.approx(0.2, rel=0.05)
    plane = torch.arange(28.0) + 2 * torch.arange(28.0)[:, None]
    assert fashion_sampling.detail(plane[None, None]) == 0.0


def test_balanced_takes_as_many_of_each_class() -> None:
    label = torch.arange(60) // 6
    data = Data(torch.arange(60.0)[:, None], {"label": label})
    found = fashion_sampling.balanced(data, 30)
    assert found.cond["label"].bincount().tolist() == [3] * 10
    assert found.x[:4, 0].tolist() == [0, 1, 2, 6]
    with pytest.raises(ValueError, match="expected fewer images of each class, got 100"):
        fashion_sampling.balanced(data, 100)


def test_a_row_of_the_table_has_its_numbers() -> None:
    row = {
        "frechet": 0.0123,
        "within": 0.97,
        "between": 0.88,
        "detail": 0.712,
        "black": 0.5,
        "as_asked": 0.875,
        "learned": [0.75, 0.01],
        "learned_relabelled": [0.7, 0.02],
    }
    rows = {"real": row | {"frechet_std": 0.0004}, "plain": row | {"calls": 11}}
    text = fashion_sampling.section({"command": "this", "rows": rows}, 700, True)
    assert "\n`this`: " in text
    assert "700 samples each" in text
    assert "the network in bfloat16" in text
    numbers = "0.97 | 0.88 | 0.712 | 50.0% | 87.5% | 75.0 ± 1.0% | 70.0 ± 2.0% |"
    assert f"| other training images |  | 0.0123 ± 0.0004 | {numbers}" in text
    assert f"| no guidance | 11 | 0.0123 | {numbers}" in text
