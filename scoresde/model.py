"""Score models: the one interface between networks, oracles, guidance and solvers."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from scoresde._check import choice, fail, floating, instance, positive, same_shape, wrong_type
from scoresde._tensor import Scalar, Time, expand, lincomb, state_dtype, user_time, xp
from scoresde.node import Node
from scoresde.prediction import COORDINATES, Prediction
from scoresde.sde import SDE, AffineSDE, same_sde
from scoresde.summary import DataSummary

__all__ = [
    "AnalyticStart",
    "Cond",
    "FunctionScore",
    "Preconditioned",
    "ScoreModel",
    "bare",
    "check_cond",
    "check_weights",
    "default_prediction",
    "own_dtype",
    "suited",
    "summary_of",
]

Cond: TypeAlias = Mapping[str, Tensor] | None
"""Conditions: name -> tensor with leading B (labels, measurements, masks)."""


def check_cond(
    model: ScoreModel, cond: Cond, n: int, device: torch.device | None = None
) -> dict[str, Tensor] | None:
    """The conditions of n samples as tensors that the model takes, or None if there are none.

    Arrays become tensors, which move to `device` if one is given; labels become int64.

    Raises:
        TypeError: `cond` is no mapping, or a value is no tensor; labels that are not integers.
        ValueError: a value has not one entry per sample; a name that the model does not take, or
            one that it needs is missing; a label that is not one of its classes.
    """
    cond = {} if cond is None else cond
    instance("cond", cond, Mapping, 'pass name -> tensor, e.g. {"label": labels}')
    taken: dict[str, Any] = {}
    for name, value in cond.items():
        array = hasattr(value, "__array__") and not isinstance(value, Tensor)
        made = torch.as_tensor(value, device="cpu") if array else value
        if not isinstance(made, Tensor) or made.ndim == 0 or made.shape[0] != n:
            remedy = "conditions are tensors with one entry per sample along their first axis"
            raise fail(f"cond[{name!r}]", f"a tensor with leading {n}", value, remedy)
        taken[name] = made
    return {k: v.to(device) for k, v in model.admit(taken).items()} or None


def check_weights(model: nn.Module) -> None:
    """Raise a ValueError if weights were made under inference mode: none enters a graph."""
    if any(p.is_inference() for p in model.parameters()):
        remedy = "build it outside that mode"
        raise fail("model", "weights made outside torch.inference_mode", "such weights", remedy)


def bare(net: nn.Module) -> nn.Module:
    """The network inside what torch.compile and the parallel modules wrap around it."""
    while True:
        if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        elif isinstance(getattr(net, "_orig_mod", None), nn.Module):  # of torch.compile
            net = net._orig_mod  # type: ignore[assignment]
        else:
            return net


def suited(model: nn.Module, x: Tensor) -> Tensor:
    """x in the precision of the model's weights, in float32 if that is half."""
    return x.to(state_dtype(own_dtype(model) or x.dtype))


def own_dtype(module: nn.Module) -> torch.dtype | None:
    """The precision of a module's numbers: of its weights or, without any, of its constants."""
    for held in chain(module.parameters(), module.buffers()):
        if held.is_floating_point():
            return held.dtype
        if held.is_complex():
            return held.dtype.to_real()
    return None


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

    @property
    def spread(self) -> tuple[float, int] | None:
        """Standard deviation of the data and number of values of a sample; None if not known."""
        if self.data is None or not self.data.std > 0.0:
            return None
        return self.data.std, math.prod(self.data.shape)

    def calls(self, node: Node) -> int:
        """Network evaluations that one `predict` at this node makes; wrappers have their own."""
        return 1

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        """The conditions as this model takes them, or the error that says what is wrong.

        Here all are taken as they are. A wrapper asks the model that it wraps.
        """
        return cond

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


class _Asked(ScoreModel):
    """A model that asks a function or a network of the user's, in its own precision.

    A function that differentiates by itself, such as a score that is the gradient of an energy,
    fails without gradients, as samplers ask, and where x requires none, as a loss asks. It is
    then asked with gradients enabled and an x that requires them, from the first time on that
    this is found to help.
    """

    _differentiates = False

    def _ask(
        self, call: Callable[[Tensor], Tensor], dtype: torch.dtype | None, x: Tensor
    ) -> Tensor:
        """What `call` says of x in the precision `dtype`, in the precision of x."""
        heard = x if dtype is None else x.to(dtype)
        graph = torch.is_grad_enabled()
        value: Any = call(heard) if graph and heard.requires_grad else self._entering(call, heard)
        if not isinstance(value, Tensor):
            return value  # type: ignore[no-any-return]  # refused by the caller, for its shape
        # A detach is an operation of its own, also where there is nothing to detach from.
        alone = graph or not value.requires_grad
        return (value if alone else value.detach()).to(x.dtype)

    def _entering(self, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What `call` says of an x that is in no graph."""
        failed: RuntimeError | None = None
        if not self._differentiates:
            try:
                return call(x)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                failed = error
        with torch.enable_grad():
            try:
                value = call(x.detach().clone().requires_grad_())
            except RuntimeError as error:
                raise (error if failed is None else failed) from None
        self._differentiates = True
        return value


def _known(cond: dict[str, Tensor], fn: Callable[..., Any]) -> None:
    """Raise unless a function takes all conditions by name, after its first two arguments.

    Raises:
        ValueError: it does not take one of them, or needs one that is not there.
    """
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    told = {p.name for p in positional[:2]}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {p.name: p for p in parameters if p.kind in kinds and p.name not in told}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in () if anything else cond:
        if not named:
            remedy = "leave it out, or give the network an argument of this name"
            raise fail("cond", "None, for the model takes no conditions", name, remedy)
        choice("cond", name, list(named))
    for name, parameter in named.items():
        if name not in cond and parameter.default is inspect.Parameter.empty:
            remedy = f'pass cond={{"{name}": ...}}, or give this argument of the model a default'
            raise fail("cond", f"{name!r}, which the model needs", list(cond) or None, remedy)


def _labels(label: Tensor, classes: int, null: object) -> Tensor:
    """Labels as int64, each one of the classes or the value that stands for no label."""
    if classes == 0:
        remedy = "build the network with classes=..., or leave label out"
        raise wrong_type("cond['label']", "none, as the network has classes=0", label, remedy)
    integers = not (label.is_floating_point() or label.is_complex() or label.dtype == torch.bool)
    if label.ndim != 1 or not integers:
        kind = fail if integers else wrong_type
        remedy = "one class number per sample"
        raise kind("cond['label']", "integers of shape (N,)", label, remedy)
    label = label.long()
    if label.device.type == "cpu":  # elsewhere a look would be a synchronisation
        wrong = (label < 0) | (label >= classes)
        if isinstance(null, int) and null < 0:
            wrong &= label != null
        if bool(wrong.any()):
            got = f"{int(label[wrong][0])} among them"
            expected = f"classes from 0 to {classes - 1}, or {null} for no label"
            remedy = "number the classes from 0, or build the network with more classes"
            raise fail("cond['label']", expected, got, remedy)
    return label


def summary_of(model: nn.Module) -> DataSummary | None:
    """What a model, or the one that it wraps, knows of its data; None if nothing."""
    parts = (part for part in model.modules() if isinstance(part, ScoreModel))
    return next((part.data for part in parts if part.data is not None), None)


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
class Preconditioned(_Asked):
    """A raw network net(x, t, **cond), read as a prediction in one of the coordinates.

    The network is called with x: (B, *D) and a time (B,), in the precision of its weights: a
    state and conditions of another are cast, the time of a network of half precision comes in
    float32, and its answer returns in the precision of the state. For "eps", "x0", "v", "score"
    and "flow" (eps - x0, the velocity of flow matching) its output is that coordinate. For "edm"
    it is F in Karras et al. 2022 (arXiv 2206.00364), eq. 7, for any affine SDE:
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
        if not callable(self.time):
            choice("time", self.time, TIMES)
        remedy = "the standard deviation of the data, or None to have it measured"
        self.sigma_data = (
            None if sigma_data is None else positive("sigma_data", sigma_data, remedy)
        )
        if null is not None:
            instance("null", null, Mapping, 'pass name -> value, e.g. {"label": -1}')
        self.null: dict[str, Any] = {"label": -1} if null is None else dict(null)
        self.net = net
        self.sde = sde

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        net = bare(self.net)
        _known(cond, net.forward)
        classes = getattr(net, "config", {}).get("classes")  # of the networks of scoresde.nets
        if classes is None or "label" not in cond:
            return cond
        return cond | {"label": _labels(cond["label"], classes, self.null.get("label"))}

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        if self.predicts == "edm":
            return self._edm(node, x, cond)
        return Prediction(x, node, self._told(node, x, cond), self.predicts)

    def _told(self, node: Node, x: Tensor, cond: Cond) -> Tensor:
        """What the network says, (B, *D)."""
        own = own_dtype(self.net)
        told = self.time(node) if callable(self.time) else TIMES[self.time](node)
        time = Node.column_of(told, x, own)
        given = dict(cond or {})
        if own is not None:
            given |= {k: v.to(own) for k, v in given.items() if v.is_floating_point()}
        value = self._ask(lambda heard: self.net(heard, time, **given), own, x)
        same_shape("net", value, x, "the network must return one value per entry of x")
        return value

    def _edm(self, node: Node, x: Tensor, cond: Cond) -> Prediction:
        std = 1.0 if self.sigma_data is None else self.sigma_data
        scale = node.alpha**2 * std**2 + node.sigma**2
        c_in = 1.0 / xp(scale).sqrt(scale)
        raw = self._told(node, c_in * x, cond)
        c_skip = node.alpha * std**2 * c_in**2
        c_out = node.sigma * std * c_in
        return Prediction(x, node, lincomb((c_skip, x), (c_out, raw)), "x0")


@final
class FunctionScore(_Asked):
    """A bare function fn(t, x) -> score as a model; `ReverseSampler` wraps one by itself.

    Along a grid fn receives t as a 0-dim float64 CPU tensor, which mixes with any device and
    dtype; for one time per sample as `(B, 1, ..., 1)`. Conditions are passed by name. A module
    is called in the precision of its weights. A function that differentiates, such as -grad U of
    an energy U by torch.autograd.grad, is called with gradients enabled and x requiring them;
    for `log_prob`, which differentiates it again, it needs create_graph=True.

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

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        _known(cond, self.fn.forward if isinstance(self.fn, nn.Module) else self.fn)
        return cond

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        time, given = user_time(node.t, x), cond or {}
        value = self._ask(lambda heard: self.fn(time, heard, **given), own_dtype(self), x)
        same_shape("fn(t, x)", value, x, "a score has the shape of the state")
        return Prediction(x, node, value, "score")


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
        if not same_sde(stand_in.sde, model.sde):
            remedy = "make the stand-in under model.sde"
            raise fail("stand_in", f"a model of {model.sde!r}", repr(stand_in.sde), remedy)
        self.sde = model.sde
        self.model = model
        self.stand_in = stand_in
        self.above = self.sde.check_time("above", above)

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model.admit(cond)

    @property
    def spread(self) -> tuple[float, int] | None:
        return self.model.spread

    def calls(self, node: Node) -> int:
        if isinstance(node.t, Tensor):
            return self.model.calls(node)
        return 0 if node.t > self.above else self.model.calls(node)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        if not isinstance(node.t, Tensor):
            return (self.stand_in if node.t > self.above else self.model).predict(node, x, cond)
        early = expand(node.t > self.above, x)
        # v, since at alpha = 0 the score knows nothing of x_0
        kind = "v" if node.affine else "score"
        exact, learned = (m.predict(node, x, cond).read(kind) for m in (self.stand_in, self.model))
        return Prediction(x, node, torch.where(early, exact, learned), kind)
