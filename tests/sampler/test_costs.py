"""What a sampler costs beyond the network: memory and operations."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde import VPSDE, Preconditioned, ReverseSampler
from scoresde.node import Node
from scoresde.noise import Independent, Noise
from scoresde.solvers import SOLVERS

VP = VPSDE()

WHOLE = ("scipy", "torchsde", "dopri5", "bosh3", "adaptive_sde")


STEPWISE = [name for name in SOLVERS if name not in WHOLE]


class Ledger(TorchDispatchMode):
    """Keeps account of the tensors made under it, and of what those alive hold."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.made.append(weakref.ref(out))
        return out

    def held(self) -> int:
        """Bytes of the storages that are alive."""
        alive = [tensor for tensor in (made() for made in self.made) if tensor is not None]
        self.made = [weakref.ref(tensor) for tensor in alive]
        storages = (tensor.untyped_storage() for tensor in alive)
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("name", STEPWISE)
def test_memory_of_a_stream_grows_by_its_output_alone(name: str) -> None:
    dim, batch, peaks = 1000, 8, {}
    for n in (batch, 2 * batch, 10 * batch):
        ledger, held = Ledger(), []

        def asked(t: Tensor, x: Tensor, ledger: Any = ledger, held: Any = held) -> Tensor:
            assert len(x) == batch
            held.append(ledger.held())
            return -x

        sampler = ReverseSampler(VP, asked, name, steps=4)
        with ledger:
            sampler.sample((n, dim), seed=0, batch_size=batch)
        peaks[n] = max(held)
    one = batch * dim * 4
    assert peaks[batch] >= one
    for n in (2 * batch, 10 * batch):
        output = (n - batch) * dim * 4
        assert output <= peaks[n] - peaks[batch] <= output + 3 * one, peaks


class Operations(TorchDispatchMode):
    """Counts aten operations, except where it is told to look away."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.away = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not self.away
        return func(*args, **(kwargs or {}))


class Away(nn.Module):
    """A network whose own operations do not count."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.operations.away = True
        out = 0.9 * x
        self.operations.away = False
        return out


class AwayNoise(Noise):
    """Noise whose own operations do not count."""

    def __init__(self, operations: Operations, inner: Noise) -> None:
        self.operations, self.inner, self.seed = operations, inner, inner.seed

    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        self.operations.away = True
        out = self.inner.normal(like, now, nxt)
        self.operations.away = False
        return out

    def draw(self, like: Tensor, *number: int, at: float = 0.0) -> Tensor:
        self.operations.away = True
        out = self.inner.draw(like, *number, at=at)
        self.operations.away = False
        return out

    def stream(self, name: str) -> AwayNoise:
        return AwayNoise(self.operations, self.inner.stream(name))

    def on_segment(self, segment: int) -> AwayNoise:
        return AwayNoise(self.operations, self.inner.on_segment(segment))

    def from_sample(self, first: int) -> AwayNoise:
        return AwayNoise(self.operations, self.inner.from_sample(first))


def operations_per_step(name: str, predicts: str, eta: Any = None) -> float:
    counts = {}
    for steps in (10, 20):
        operations = Operations()
        model = Preconditioned(Away(operations), VP, predicts)
        sampler = ReverseSampler(VP, model, name, steps=steps, eta=eta)
        with operations:
            sampler.sample((4, 2), noise=AwayNoise(operations, Independent(0)))
        counts[steps] = operations.count
    return (counts[20] - counts[10]) / 10


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score"])
@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("euler_maruyama", 7),  # DESIGN section 5.5
        ("ddim", 3),
        ("euler", 3),
        ("ancestral", 4),
        ("reverse_diffusion", 4),
        ("heun", 8),
        ("predictor_corrector", 8),
        ("unipc_2", 7),  # p + 5, and a PEC corrector with it
        ("unipc_3", 8),
        ("unipc_4", 9),
        ("sa_solver_p2c2", 8),  # and the noise's pass
    ],
)
def test_aten_operations_beyond_network_and_noise(name: str, bound: int, predicts: str) -> None:
    """One for the network's times, and the fewest passes over the state after that."""
    assert operations_per_step(name, predicts) <= bound


@pytest.mark.parametrize("predicts", ["eps", "score"])
def test_the_sampler_adds_no_operation_to_a_step(predicts: str) -> None:
    """Neither a check for NaN nor a progress hook: EM is times, x + c m, and the noise's pass."""
    exact = {"ddim": 3, "ancestral": 4, "euler_maruyama": 4, "heun": 8, "predictor_corrector": 7}
    assert {name: operations_per_step(name, predicts) for name in exact} == exact
