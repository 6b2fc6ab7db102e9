"""Feature spaces: batches, streams, and the Frechet distance of moments that are never whole."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared import normal
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from scoresde.metrics import (
    FeatureMoments,
    feature_frechet,
    feature_moments,
    features_of,
    frechet_distance,
)


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


@given(
    cuts=st.lists(st.integers(1, 59), max_size=6, unique=True),
    offset=st.sampled_from([0.0, 1e6]),
    width=st.sampled_from([3, 80]),
)
def test_merged_batches_have_the_moments_of_the_whole(
    cuts: list[int], offset: float, width: int
) -> None:
    """At an offset of 1e6 the usual sums of squares would lose 12 digits of the covariance."""
    x = offset + normal(60, width)
    merged = None
    for part in torch.tensor_split(x, sorted(cuts)):
        moments = FeatureMoments.of(part)
        merged = moments if merged is None else merged.merge(moments)
    assert merged is not None and merged.count == 60
    expected = torch.as_tensor(np.cov((x - offset).numpy().T))
    assert torch.allclose(merged.covariance, expected, rtol=0, atol=1e-9 if offset else 1e-12)
    assert torch.allclose(merged.mean - offset, (x - offset).mean(dim=0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch", [7, 256, 5000])
def test_streamed_and_whole_distances_are_equal(batch: int) -> None:
    a, b = normal(3000, 2, 3, seed=1), 2 * normal(2500, 2, 3, seed=2) + 1
    expected = frechet_distance(a, b)
    assert feature_frechet(a, b, flat, batch_size=batch) == pytest.approx(expected, rel=1e-10)
    stream, moments = iter(a.split(batch)), feature_moments(b, flat, batch_size=batch)
    assert feature_frechet(stream, moments, flat) == pytest.approx(expected, rel=1e-10)


def test_long_streams_are_folded_several_times() -> None:
    a, b = normal(5000, 6, seed=1), 2 * normal(4000, 6, seed=2) + 1
    found = feature_frechet(iter(a.split(100)), iter(b.split(999)), flat)
    assert found == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_fewer_samples_than_features_stream_as_well() -> None:
    a, b = normal(40, 90, seed=1), 1 + normal(30, 90, seed=2)
    found = feature_frechet(iter(a.split(9)), iter(b.split(4)), flat)
    assert found == pytest.approx(frechet_distance(a, b), rel=1e-10)


def rows_alive(width: int) -> int:
    """Rows of all the tensors (N, width) that something still refers to."""
    tensors = (thing for thing in gc.get_objects() if type(thing) is Tensor)
    return sum(len(x) for x in tensors if x.shape[1:] == (width,))


def test_a_stream_is_never_held() -> None:
    """Of 400 batches no more than two images' are alive at a time, and few rows of features."""
    alive: list[weakref.ref[Tensor]] = []
    most, rows = 0, 0

    def images() -> Iterator[Tensor]:
        nonlocal most, rows
        for seed in range(400):
            batch = normal(50, 1, 8, 37, seed=seed).float()
            alive.append(weakref.ref(batch))
            most = max(most, sum(ref() is not None for ref in alive))
            if seed % 40 == 39:
                rows = max(rows, rows_alive(37))
            yield batch

    moments = feature_moments(images(), lambda x: x.mean(dim=(1, 2)))
    assert moments.count == 20_000
    assert most <= 2
    assert 50 < rows < 2_500


class Flat(nn.Module):
    num_features = 6

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_it_is_the_distance_of_torchmetrics() -> None:
    a, b = normal(60, 6, seed=1), 1.5 * normal(50, 6, seed=2) + 1
    judge = FrechetInceptionDistance(Flat())
    judge.update(a, real=False)
    judge.update(b, real=True)
    assert feature_frechet(a, b, Flat()) == pytest.approx(float(judge.compute()), rel=1e-8)


def test_features_come_in_batches_in_order_without_gradients() -> None:
    sizes, net = [], nn.Linear(3, 2)

    def features(x: Tensor) -> Tensor:
        sizes.append(len(x))
        assert not torch.is_grad_enabled()
        return net(x)

    x = normal(10, 3).float()
    found = features_of(x, features, batch_size=4)
    assert sizes == [4, 4, 2]
    assert found.dtype == torch.float64 and not found.requires_grad
    assert torch.allclose(found, net(x).double())
    assert torch.equal(found, features_of(x.numpy(), features, batch_size=4))
    assert torch.equal(found, features_of([x[:4], x[4:8], x[8:]], features))


class Method(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def features(self, x: Tensor) -> Tensor:
        return self.drop(x)


def test_a_network_in_evaluation_mode_has_features() -> None:
    """Batch norms and dropouts are refused while they train; then they are functions of x."""
    x = normal(10, 3).float()
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    assert torch.allclose(features_of(x, net), net(x).double())
    assert torch.allclose(features_of(x, Method().eval().features), x.double())


X = normal(6, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: features_of(X, 3), TypeError, ["features", "callable", "got 3"]),  # type: ignore[arg-type]
        (lambda: features_of(X, lambda x: x[1:]), ValueError, ["features", "6 rows", "(5, 2)"]),
        (
            lambda: features_of(X, lambda x: x[:, 0]),
            ValueError,
            ["features", "(6,)", "per sample"],
        ),
        (lambda: features_of(X, lambda x: None), TypeError, ["features", "tensor", "None"]),  # type: ignore[arg-type, return-value]
        (lambda: features_of(X, lambda x: x / 0), ValueError, ["features", "infinity"]),
        (lambda: features_of([], flat), ValueError, ["x:", "at least one sample", "loaded"]),
        (lambda: features_of(X, nn.BatchNorm1d(2)), ValueError, ["BatchNorm1d", ".eval()"]),
        (lambda: features_of(X, Method().features), ValueError, ["Dropout", ".eval()"]),
        (lambda: features_of(X, flat, batch_size=0), ValueError, ["batch_size", "got 0"]),
        (lambda: feature_frechet(X[:1], X, flat), ValueError, ["at least 2 rows", "got 1"]),
        (lambda: feature_frechet(X, X[:, :1], flat), ValueError, ["2 features", "1"]),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(
    call: Callable[[], Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    assert torch.is_grad_enabled()
