"""Score models: the one interface between networks, oracles, guidance and solvers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from scoresde._check import choice, fail, floating, instance, positive, same_shape, wrong_type
from scoresde._tensor import Scalar, Time, expand, lincomb, user_time, xp
from scoresde.node import Node
from scoresde.prediction import COORDINATES, Prediction
from scoresde.sde import SDE, AffineSDE
from scoresde.summary import DataSummary

__all__ = [
    "AnalyticStart",
    "Cond",
    "FunctionScore",
    "Preconditioned",
    "ScoreModel",
    "check_cond",
    "default_prediction",
]

Cond: TypeAlias = Mapping[str, Tensor] | None
"""Conditions: name -> tensor with leading B (labels, measurements, masks)."""


def check_cond(cond: Cond, n: int) -> None:
    """Raise unless `cond` is None, or a mapping of tensors with n entries each."""
    if cond is None:
        return
    instance("cond", cond, Mapping, 'pass name -> tensor, e.g. {"label": labels}')
    for name, value in cond.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != n:
            remedy = "conditions have one entry per sample along their first axis"
            raise fail(f"cond[{name!r}]", f"a tensor with leading {n}", value, remedy)


class ScoreModel(nn.Module, ABC):
    """A model of the score of every marginal of an SDE; `predict` is its one abstract method.

    Solvers, guidance and losses call `predict(node, x, cond)`; people call `model(t, x)` for a
    `Prediction` or `model.score(t, x)` for the score alone. Wrapping a model gives a model.

    Attributes:
        sde: the SDE whose marginals it knows.
        data: what is known of the data that it was trained on, or None.
    """

    sde: SDE
    data: DataSummary | None = None

    @abstractmethod
    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        """What the model says at x: (B, *D), a point `node` of the schedule."""

    def calls(self, node: Node) -> int:
        """Network evaluations that one `predict` at this node makes; wrappers have their own."""
        return 1

    def forward(self, t: Time, x: Tensor, cond: Cond = None) -> Prediction:
        """`predict` at time t: a float, (), or one time per sample (B,)."""
        floating("x", x)
        if isinstance(t, Tensor) and t.device.type == "cpu" and t.ndim == 0:
            t = float(t)
        return self.predict(self.sde.at(t, like=x), x, cond)

    @final
    def score(self, t: Time, x: Tensor, cond: Cond = None) -> Tensor:
        """The score, the gradient of log p_t at x: (B, *D), in units of 1/x."""
        return self(t, x, cond).score  # type: ignore[no-any-return]


TIMES: dict[str, Callable[[Node], Scalar]] = {
    "t": lambda n: n.t,
    "log_snr": lambda n: n.log_snr,
    "log_sigma/4": lambda n: n.log_snr * -0.25,
}
"""What a network is told as its time; "log_sigma/4" is EDM's c_noise, of sigma / alpha."""


def default_prediction(sde: SDE) -> str:
    """What a network is best read as under this SDE; see `Preconditioned`."""
    if not isinstance(sde, AffineSDE):
        return "score"
    size = math.hypot(sde.alpha(sde.T), sde.sigma(sde.T))
    return "v" if 0.5 <= size <= 2.0 else "edm"


@final
class Preconditioned(ScoreModel):
    """A raw network net(x, t, **cond), read as a prediction in one of the coordinates.

    The network is called with x: (B, *D) and a time (B,). For "eps", "x0", "v", "score" and
    "flow" (eps - x0, the velocity of flow matching) its output is that coordinate. For "edm" it
    is F in Karras et al. 2022 (arXiv 2206.00364), eq. 7, for any affine SDE:
    x0 = c_skip x + c_out F(c_in x, c_noise), with c_in = 1/sqrt(alpha^2 s^2 + sigma^2),
    c_skip = alpha s^2 c_in^2, c_out = sigma s c_in and
    s = sigma_data.

    By default it is "v" where the states keep about the size of unit data from t = 0 to T (VP,
    sub-VP, cosine, flow, chains), "edm" where they do not (VE, EDM), and "score" under an SDE that
    is not affine. An error of eps near t = T is one of 1/alpha(T) times its size in x_0, so
    "eps" takes long to train before samples of the probability flow stay within the data's range.

    Args:
        net: the network.
        sde: the SDE; affine, unless predicts="score".
        predicts: "eps", "x0", "v", "score", "flow" or "edm"; None for the default above.
        time: "t", "log_snr", "log_sigma/4" (c_noise) or a function of the node; by default
            "log_sigma/4" for "edm", else "t".
        sigma_data: standard deviation of the data, for "edm"; if None, a `Trainer` measures it,
            and until then it is 1.
        null: the values that stand for "no condition", by name; classifier-free guidance and
            the training dropout of conditions read them.

    Raises:
        TypeError: net is not callable, or the SDE is not affine and predicts is not "score".
        ValueError: unknown names; an output whose shape is not that of x.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.nets import MLP
        >>> model = Preconditioned(MLP(2), VPSDE())
        >>> model.score(0.5, torch.zeros(4, 2)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        net: nn.Module,
        sde: SDE,
        predicts: str | None = None,
        time: str | Callable[[Node], Scalar] | None = None,
        sigma_data: float | None = None,
        null: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
        instance("net", net, nn.Module, "wrap a function of (t, x) in FunctionScore instead")
        if predicts is None:
            predicts = default_prediction(sde)
        self.predicts = choice("predicts", predicts, [*COORDINATES, "edm"])
        if predicts != "score" and not isinstance(sde, AffineSDE):
            remedy = "use predicts='score' or FunctionScore"
            raise wrong_type("sde", f"an affine SDE for predicts={predicts!r}", sde, remedy)
        default = "log_sigma/4" if predicts == "edm" else "t"
        self.time = default if time is None else time
        self._time = self.time if callable(self.time) else TIMES[choice("time", self.time, TIMES)]
        remedy = "the standard deviation of the data, or None to have it measured"
        self.sigma_data = (
            None if sigma_data is None else positive("sigma_data", sigma_data, remedy)
        )
        if null is not None:
            instance("null", null, Mapping, 'pass name -> value, e.g. {"label": -1}')
        self.null: dict[str, Any] = {"label": -1} if null is None else dict(null)
        self.net = net
        self.sde = sde

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        time = Node.column_of(self._time(node), x)
        if self.predicts == "edm":
            return self._edm(node, x, time, cond)
        value = self.net(x, time, **(cond or {}))
        same_shape("net", value, x, "the network must return one value per entry of x")
        return Prediction(x, node, value, self.predicts)

    def _edm(self, node: Node, x: Tensor, time: Tensor, cond: Cond) -> Prediction:
        std = 1.0 if self.sigma_data is None else self.sigma_data
        scale = node.alpha**2 * std**2 + node.sigma**2
        c_in = 1.0 / xp(scale).sqrt(scale)
        raw = self.net(c_in * x, time, **(cond or {}))
        same_shape("net", raw, x, "the network must return one value per entry of x")
        c_skip = node.alpha * std**2 * c_in**2
        c_out = node.sigma * std * c_in
        return Prediction(x, node, lincomb((c_skip, x), (c_out, raw)), "x0")


@final
class FunctionScore(ScoreModel):
    """A bare function fn(t, x) -> score as a model; `ReverseSampler` wraps one by itself.

    Along a grid fn receives t as a 0-dim float64 CPU tensor, which mixes with any device and
    dtype; for one time per sample as `(B, 1, ..., 1)`. Conditions are passed by name.

    Args:
        sde: the SDE.
        fn: fn(t, x, **cond) -> tensor of the shape of x.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> normal = FunctionScore(VPSDE(), lambda t, x: -x)
        >>> normal.score(0.5, torch.ones(1, 2)).tolist()
        [[-1.0, -1.0]]
    """

    def __init__(self, sde: SDE, fn: Callable[..., Tensor]) -> None:
        super().__init__()
        instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
        if not callable(fn):
            raise wrong_type("fn", "a function score(t, x)", fn, "pass a callable")
        self.sde = sde
        self.fn = fn

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        value = self.fn(user_time(node.t, x), x, **(cond or {}))
        same_shape("fn(t, x)", value, x, "a score has the shape of the state")
        return Prediction(x, node, value.to(x.dtype), "score")


@final
class AnalyticStart(ScoreModel):
    """A model whose answers at high noise are those of a stand-in, at no network call.

    Near t = T the marginal is close to a Gaussian whatever the data, so the exact score of a
    Gaussian with the data's moments is as good as the network's there. With `above` the second
    node of the grid this is the analytic first step of Dockhorn et al. 2022 (arXiv 2210.05475),
    who take the standard normal for the stand-in: one call less, of a few.

    Args:
        model: the model.
        stand_in: a model of the same SDE, such as `Gaussian.fit(data).under(sde)`.
        above: it answers at times beyond this one.

    Raises:
        ValueError: the two are models of different SDEs.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, Gaussian, ReverseSampler
        >>> sde = VPSDE()
        >>> normal = Gaussian(torch.zeros(2), torch.ones(())).under(sde)
        >>> model = AnalyticStart(FunctionScore(sde, lambda t, x: -x), normal, above=0.9)
        >>> sampler = ReverseSampler(sde, model, "dpmpp_2m", steps=5)
        >>> sampler.solve((4, 2), seed=0).nfe  # 5 steps and the final denoising, less one
        5
    """

    def __init__(self, model: ScoreModel, stand_in: ScoreModel, above: float) -> None:
        super().__init__()
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        instance("stand_in", stand_in, ScoreModel, "pass e.g. Gaussian.fit(data).under(sde)")
        if stand_in.sde != model.sde:
            remedy = "make the stand-in under model.sde"
            raise fail("stand_in", f"a model of {model.sde!r}", repr(stand_in.sde), remedy)
        self.sde = model.sde
        self.model = model
        self.stand_in = stand_in
        self.above = self.sde.check_time("above", above)

    def calls(self, node: Node) -> int:
        if isinstance(node.t, Tensor):
            return self.model.calls(node)
        return 0 if node.t > self.above else self.model.calls(node)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        if not isinstance(node.t, Tensor):
            return (self.stand_in if node.t > self.above else self.model).predict(node, x, cond)
        early = expand(node.t > self.above, x)
        exact, learned = (m.predict(node, x, cond).score for m in (self.stand_in, self.model))
        return Prediction(x, node, torch.where(early, exact, learned), "score")
