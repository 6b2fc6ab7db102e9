"""The convolutional judge: what it learns, that it repeats itself, and what it refuses."""

import pytest
import torch
from torch import Tensor

from scoresde.data import digits
from scoresde.metrics import Judge


@pytest.fixture(scope="module")
def judge() -> Judge:
    train = digits("train")
    return Judge.fit_convolutional(train.x, train.cond["label"], epochs=12, batch_size=32, width=8)


def stripes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose class is the direction of their stripes, at a random phase, in noise."""
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 2
    phase = 6.28 * torch.rand(n, 1, generator=g)
    wave = (1.5 * torch.arange(12.0) + phase).sin()
    across = wave[:, :, None].expand(n, 12, 12)
    x = torch.where(label[:, None, None] == 0, across, across.transpose(1, 2))
    return (x + 0.3 * torch.randn(n, 12, 12, generator=g))[:, None], label


def test_it_learns_classes_that_no_linear_map_tells_apart() -> None:
    x, label = stripes(400, 0)
    unseen, truth = stripes(400, 1)
    made = Judge.fit_convolutional(x, label, epochs=4, batch_size=32, width=8)
    assert made.accuracy(unseen, truth) > 0.97
    # a least-squares hyperplane of the same pixels is at chance
    design = torch.cat([x.flatten(1), torch.ones(len(x), 1)], 1)
    weights = torch.linalg.lstsq(design, 2.0 * label[:, None] - 1, driver="gelsd").solution
    seen = torch.cat([unseen.flatten(1), torch.ones(len(x), 1)], 1) @ weights
    assert abs(float(((seen[:, 0] > 0).long() == truth).double().mean()) - 0.5) < 0.1
    # labels that say nothing of the images are not learned either
    shuffled = label[torch.randperm(400, generator=torch.Generator().manual_seed(2))]
    blind = Judge.fit_convolutional(x, shuffled, epochs=4, batch_size=32, width=8)
    assert abs(blind.accuracy(unseen, truth) - 0.5) < 0.15


def test_digits_unseen(judge: Judge) -> None:
    test = digits("test")
    assert judge.accuracy(test.x, test.cond["label"]) > 0.9
    assert torch.equal(judge.classify(test.x), judge(test.x).argmax(1))
    wrong = (test.cond["label"] + 1) % 10
    assert judge.accuracy(test.x, wrong) < 0.1


def test_features_have_unit_total_variance_and_do_not_depend_on_the_batch(
    judge: Judge,
) -> None:
    x = digits("train").x
    features = judge.features(x)
    assert features.shape == (len(x), 128)
    assert features.dtype == torch.float64
    assert abs(float(features.var(0).sum()) - 1) < 1e-4
    assert torch.allclose(judge.features(x[:100], batch_size=7), features[:100], atol=1e-6)
    assert not judge.training


def test_the_seed_rules_and_the_global_state_stays() -> None:
    x, label = stripes(64, 0)
    before = torch.random.get_rng_state()
    first, again, other = (
        Judge.fit_convolutional(x, label, epochs=1, batch_size=16, width=4, seed=s)
        for s in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    one, two, three = (net.state_dict() for net in (first, again, other))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["head.weight"], three["head.weight"])


def test_in_training_mode_it_says_nothing() -> None:
    """As one is made to take saved weights: batches would be normalised by themselves."""
    made, (x, label) = Judge.convolutional(1, 2, width=4), stripes(8, 0)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    for ask in (made.features, made.classify, lambda x: made.accuracy(x, label)):
        with pytest.raises(ValueError, match=r"evaluation mode, got .* call \.eval\(\)"):
            ask(x)
    assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())
    assert len(made.eval().classify(x)) == 8


def test_bad_input() -> None:
    x, label = stripes(8, 0)
    with pytest.raises(ValueError, match=r"classes: expected at least 2, got 1"):
        Judge.convolutional(1, 1)
    with pytest.raises(ValueError, match=r"x: expected images \(N, C, H, W\).*x\[:, None\]"):
        Judge.fit_convolutional(x[:, 0], label)
    with pytest.raises(ValueError, match=r"labels: expected shape"):
        Judge.fit_convolutional(x, label[:-1])
    with pytest.raises(ValueError, match=r"labels: expected integers from 0 to 1, got '0 to 5'"):
        Judge.fit_convolutional(x, label * 5, classes=2)
    with pytest.raises(TypeError, match="integers"):
        Judge.fit_convolutional(x, label.float())
    with pytest.raises(ValueError, match="epochs"):
        Judge.fit_convolutional(x, label, epochs=0)
    with pytest.raises(ValueError, match="images that differ"):
        Judge.fit_convolutional(torch.zeros_like(x), label, epochs=1)
