"""What the tables of bad input share: a row, the check of its error, and objects to call.

A row is a call that must fail, the type of the error, and three pieces of its message: the
argument, the value, and the remedy. Pieces are compared by whole words, and the remedy is looked
for behind what was got. The network must not have been called before the error, except where only
its answer shows the fault. The tables stand beside the tests of what they are about, as `ROWS` in
`test_bad_input_*.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from groups import grouped
from torch import Tensor, nn

from scoresde import (
    SDE,
    VPSDE,
    EulerMaruyama,
    GaussianMixture,
    Preconditioned,
    ReverseSampler,
    ReverseSDE,
)
from scoresde.nets import MLP, UNet
from scoresde.noise import Independent
from scoresde.schedule.grid import uniform
from scoresde.training import Trainer

VP = VPSDE()


OWN = SDE(lambda t, x: x - x**3, lambda t: 0.5, T=2.0)


X = torch.ones(4, 2)


NAN = torch.tensor([[1.0, math.nan]] * 4)


CALLS: list[int] = []


class Net(nn.Module):
    """A network that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        CALLS.append(1)
        return self.weight * 0.1 * x


def score(t: Tensor, x: Tensor, **cond: Tensor) -> Tensor:
    CALLS.append(1)
    return -x


NET = Net()


MODEL = Preconditioned(NET, VP)


TWO = GaussianMixture(torch.eye(2), torch.ones(2))


EIGHT = uniform(VP, 8)


MLPS = {k: MLP(2, width=8, classes=k) for k in (0, 3)}


WIDE = Preconditioned(MLP(3, width=8), VP)


IMAGES = UNet(1, width=8)


def sampler(**changes: Any) -> ReverseSampler:
    given = {"sde": VP, "model": MODEL, "solver": "euler_maruyama", "steps": 3, **changes}
    return ReverseSampler(**given)


def sample(shape: Any = (4, 2), *, made: ReverseSampler | None = None, **changes: Any) -> Tensor:
    return (made or sampler()).sample(shape, **{"seed": 0, **changes})


def solve(solver: Any = None, **changes: Any) -> Any:
    """A solver called by hand."""
    given = {"process": ReverseSDE(VP, MODEL), "x": X, "grid": uniform(VP, 3), **changes}
    noise = given.pop("noise", Independent(0))
    chosen = EulerMaruyama() if solver is None else solver
    return chosen.solve(given.pop("process"), given.pop("x"), given.pop("grid"), noise=noise)


def train(**changes: Any) -> Trainer:
    data = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    given = {"model": MODEL, "data": data, "steps": 2, **changes}
    return Trainer(given.pop("model"), given.pop("data"), **grouped(**given))


class Row(NamedTuple):
    id: str
    call: Callable[[], object]
    error: type[Exception]
    argument: str
    value: str
    remedy: str
    calls: bool = False  # only the network's answer shows the fault


T, V = TypeError, ValueError


FORM = re.compile(r"expected .+?, got .+; .+", re.DOTALL)
OWN_WORDS = {"linear-rate-singular", "linear-no-noise", "own-no-prior"}
"""The form of a message, and those that say it in a sentence."""


def whole(piece: str) -> re.Pattern[str]:
    """A piece of a message from the start of a word to the end of one; decimals may go on."""
    start = r"\b" if re.match(r"\w", piece) else ""
    end = r"\b" if re.search(r"\w$", piece) else ""
    decimals = r"\d*" if re.search(r"\.\d+$", piece) else ""
    return re.compile(start + re.escape(piece) + decimals + end)


def check(row: Row) -> None:
    """The call raises this very error, which says all three; nothing else has changed."""
    CALLS.clear()
    state, mode = torch.get_rng_state(), MODEL.training
    with pytest.raises(row.error) as caught:
        row.call()
    assert type(caught.value) is row.error  # not one that merely derives from it
    message = str(caught.value)
    for piece in (row.argument, row.value, row.remedy):
        assert whole(piece).search(message), message
    if row.id not in OWN_WORDS:
        assert FORM.search(message), message
        assert whole(row.remedy).search(message.partition(", got ")[2].partition("; ")[2]), message
    assert len(message) < 1000, message
    assert row.calls or not CALLS
    assert MODEL.training is mode
    assert torch.equal(torch.get_rng_state(), state)


def each(rows: list[Row]) -> pytest.MarkDecorator:
    """Parametrises a test over a table."""
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.id)
