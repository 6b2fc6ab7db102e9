"""One compiled step serves all steps, for its coefficients may be tensors."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde import VPSDE, Adams, Preconditioned, ReverseSDE
from scoresde.nets import MLP
from scoresde.node import Node
from scoresde.noise import Independent
from scoresde.schedule import Schedule
from scoresde.schedule.grid import log_snr
from scoresde.solvers.exponential.coefficients import Row


def tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def tensors(node: Node) -> Node:
    return type(node)(*(tensor(getattr(node, field.name)) for field in fields(node)))


@pytest.mark.parametrize("solver", [Adams(2), Adams(3, 4)], ids=["ab2", "unipc3"])
def test_a_compiled_step_is_compiled_once_for_each_number_of_past_predictions(
    solver: Adams,
) -> None:
    sde = VPSDE()
    torch.manual_seed(0)
    model = Preconditioned(MLP(2).double(), sde).eval()
    schedule = Schedule(sde, log_snr(sde, 12))
    rows = [
        Row(tensor(row.state_coef), tuple(map(tensor, row.weights)), 0.0)
        for row in solver.prepare(schedule, 0.0)[0]
    ]
    nodes = [tensors(node) for node in schedule.segments[0]]
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    step = torch.compile(solver.step, backend=backend)
    process, start = ReverseSDE(sde, model, 0.0), torch.randn(4, 2, dtype=torch.float64)
    x, past, counts = start, (), []
    with torch.no_grad():
        for (now, nxt), row in zip(pairwise(nodes), rows, strict=True):
            x, past = step(process, x, now, nxt, row, past, Independent(0))
            counts.append(len(graphs))
        plain = solver.solve(
            ReverseSDE(sde, model, 0.0), start, schedule.grid, noise=Independent(0)
        )
    torch._dynamo.reset()
    torch.testing.assert_close(x, plain.x, rtol=1e-12, atol=1e-12)
    assert counts[-1] == counts[solver.order] <= solver.order + 3, counts
