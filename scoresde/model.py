"""Score models: the interface between networks, exact models, losses and solvers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol, TypeGuard, final

import torch
from torch import Tensor, nn

from scoresde._check import (
    choice,
    fail,
    floating,
    held,
    instance,
    positive,
    same_shape,
    show,
    wrong_type,
)
from scoresde._html import Shown
from scoresde._tensor import Scalar, lincomb, own_dtype, sqrt, state_dtype, user_time
from scoresde.cond import (
    Cond,
    as_labels,
    check_cond,
    check_names,
    check_null,
    names_of,
    warn_untrained,
)
from scoresde.node import Node
from scoresde.prediction import COORDINATES, Prediction
from scoresde.sde import SDE, AffineSDE
from scoresde.summary import DataSummary

__all__ = [
    "FunctionScore",
    "Preconditioned",
    "ScoreModel",
    "bare",
    "check_weights",
    "data_size",
    "default_prediction",
    "own_dtype",
    "suited",
    "summary_of",
    "warn_of_raw",
]


def check_weights(model: nn.Module) -> None:
    """Raise a ValueError if weights were made under inference mode and cannot enter a graph."""
    if any(p.is_inference() for p in model.parameters()):
        remedy = "build it outside that mode"
        raise fail("model", "weights made outside torch.inference_mode", "such weights", remedy)


def bare(net: nn.Module) -> nn.Module:
    """The network inside the wrappers of torch.compile and of the parallel modules."""
    while True:
        if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        elif isinstance(getattr(net, "_orig_mod", None), nn.Module):  # of torch.compile
            net = net._orig_mod  # type: ignore[assignment]
        else:
            return net


def suited(model: nn.Module, x: Tensor) -> Tensor:
    """x in the precision of the model's weights, or in float32 if they have half precision."""
    return x.to(state_dtype(own_dtype(model) or x.dtype))


class ScoreModel(nn.Module, Shown, ABC):
    """A model of the score of every marginal of an SDE; `predict` is its one abstract method.

    Solvers and losses call `predict(node, x, cond)`; users call `model(t, x)` for a `Prediction`
    or `model.score(t, x)` for the score alone. A wrapper around a model is a model.

    Attributes:
        sde: the SDE of the marginals.
        data: a summary of the data that the model was trained on, or None.
        calibrations: calibrations by name; `solver="auto"` takes that of the name "10" for 10
            steps, and "auto_sde" that of the name "eta=1 with 10". `Trainer.fit` and `load` set
            them.
    """

    sde: SDE
    data: DataSummary | None = None
    calibrations: Mapping[str, Any] = MappingProxyType({})  # Any: of a room above

    @abstractmethod
    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        """The prediction at states x: (B, *D), at the point `node` of the schedule."""

    @property
    def data_scale(self) -> tuple[float, int] | None:
        """Standard deviation of the data and number of values of a sample; None if unknown."""
        if self.data is None or not self.data.std > 0.0:
            return None
        return self.data.std, math.prod(self.data.shape)

    @property
    def nulls(self) -> Mapping[str, object]:
        """The values that mean "not given", by the name of the condition; {} where none has one.

        The training dropout of conditions and guidance without a classifier put them in.
        """
        return MappingProxyType({})

    @property
    def takes(self) -> list[str] | None:
        """The names of the conditions that the model takes, or None if they are unknown."""
        return None

    @property
    def calibrated(self) -> ScoreModel:
        """The model that the calibrations belong to: itself, or that inside fixed conditions."""
        return self

    @property
    def composition(self) -> str:
        """The classes of the model and of what it wraps: "Tempered of Preconditioned of MLP"."""
        own = type(self).__name__
        models = [part for part in self.children() if isinstance(part, ScoreModel)]
        if models:
            return f"{own} of {' and '.join(part.composition for part in models)}"
        net = getattr(self, "net", None)
        return own if net is None else f"{own} of {type(bare(net)).__name__}"

    @property
    def facts(self) -> dict[str, object]:
        """The model in words and numbers, name -> value, for a table."""
        weights = list(self.parameters())
        kinds = sorted({f"{show(w.dtype)} on {w.device}".removeprefix("torch.") for w in weights})
        data = summary_of(self)
        return {
            "model": self.composition,
            **{name.replace("_", " "): value for name, value in self._settings.items()},
            "SDE": repr(self.sde),
            "parameters": f"{sum(w.numel() for w in weights):,}" if weights else None,
            "weights": ", ".join(kinds) or None,
            "trained on": data and f"{data.name or 'data'}: {data.count:,} x {data.shape}",
            "calibrated for": ", ".join(f"{n} steps" for n in self.calibrations) or None,
            "mode": ("training" if self.training else "evaluation") if weights else None,
        }

    @property
    def _settings(self) -> dict[str, str]:
        """The arguments of the model that are neither models nor networks."""
        others = ("calibrations", "data", "sde", "training")
        return {name: show(value) for name, value in held(self).items() if name not in others}

    def extra_repr(self) -> str:
        """The settings, for the text of the module."""
        wraps = any(isinstance(part, ScoreModel) for part in self.children())
        given = self._settings if wraps else {"sde": repr(self.sde), **self._settings}
        return ", ".join(f"{name}={value}" for name, value in given.items())

    def calls(self, node: Node) -> int:
        """Network evaluations of one `predict` at this node; wrappers override it."""
        return 1

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the conditions in the form that this model takes, or raise a ValueError.

        The base class returns them unchanged; a wrapper passes them to the model that it wraps.
        """
        return cond

    def forward(self, t: Scalar, x: Tensor, cond: Cond = None) -> Prediction:
        """`predict` at time t: a float, (), or one time per sample (B,).

        Raises:
            TypeError, ValueError: x is not floating-point, the SDE has no such time, or the
                model does not take the conditions; see `check_cond`.
        """
        if floating("x", x).ndim == 0:
            raise fail("x", "a batch of shape (B, *D)", x, "add a batch axis: x[None]")
        if isinstance(cond, Tensor) or cond:
            cond = check_cond(self, cond, len(x), x.device)
        if isinstance(t, Tensor) and t.device.type == "cpu" and t.ndim == 0:
            t = float(t)
        return self.predict(self.sde.at(t, like=x), x, cond)

    @final
    def score(self, t: Scalar, x: Tensor, cond: Cond = None) -> Tensor:
        """The score, the gradient of log p_t at x: (B, *D), in units of 1/x."""
        return self(t, x, cond).score  # type: ignore[no-any-return]


class _Calling(ScoreModel):
    """A model that calls a user's function or network in the precision of its weights.

    A function that differentiates, such as a score that is the gradient of an energy, fails when
    gradients are disabled, as in a sampler, or when x does not require them, as in a loss. It is
    then called with gradients enabled and an x that requires them; once this has helped, every
    later call does the same.
    """

    _differentiates = False

    def _call(
        self, fn: Callable[[Tensor], Tensor], dtype: torch.dtype | None, x: Tensor
    ) -> Tensor:
        """Return fn(x), computed in the precision `dtype`, in the precision of x."""
        cast = x if dtype is None else x.to(dtype)
        graph, failed = torch.is_grad_enabled(), None
        value: object = None
        if self._differentiates and not (graph and cast.requires_grad):
            value = self._call_with_graph(fn, cast)
        else:
            try:
                value = fn(cast)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                if graph and cast.requires_grad:
                    raise
                failed = error
        if failed is not None:
            value = self._call_with_graph(fn, cast, failed)
        if not isinstance(value, Tensor):
            return value  # type: ignore[return-value]  # the caller's check of the shape refuses it
        # Even a detach without a graph costs an operation.
        alone = graph or not value.requires_grad
        return (value if alone else value.detach()).to(x.dtype)

    def _call_with_graph(
        self, fn: Callable[[Tensor], Tensor], x: Tensor, failed: RuntimeError | None = None
    ) -> Tensor:
        """Return fn(x) for an x that is in no graph, with gradients enabled.

        If that fails too, the error is `failed`, that of the call without gradients.
        """
        with torch.enable_grad():
            try:
                value = fn(x.detach().clone().requires_grad_())
            except RuntimeError as error:
                raise (error if failed is None else failed) from None
        self._differentiates = True
        return value


class _Conditional(Protocol):
    """A network that knows its conditions, such as those of `scoresde.nets`."""

    @property
    def nulls(self) -> Mapping[str, object]: ...

    @property
    def label_classes(self) -> Mapping[str, int]: ...

    def admit(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


def _is_conditional(net: object) -> TypeGuard[_Conditional]:
    return hasattr(net, "nulls") and hasattr(net, "admit")


def _nulls(net: nn.Module) -> dict[str, object]:
    """The values that mean "no condition" for a network."""
    own = bare(net)
    return dict(own.nulls) if _is_conditional(own) else {"label": -1}


def summary_of(model: nn.Module) -> DataSummary | None:
    """The data summary of a model, or of the model that it wraps; None if there is none."""
    parts = (part for part in model.modules() if isinstance(part, ScoreModel))
    return next((part.data for part in parts if part.data is not None), None)


def warn_of_raw(model: nn.Module, x: Tensor) -> None:
    """Warn if x: (B, *D) seems to be in the original units of a model's data, not in its own."""
    known = summary_of(model)
    if known is not None:
        known.warn_of_raw(x)


def data_size(model: ScoreModel) -> float:
    """The root mean square of the data of a model, 1 if it does not know it."""
    known, scale = summary_of(model), model.data_scale
    if known is not None:
        return known.size
    return 1.0 if scale is None else scale[0]


TIMES: dict[str, Callable[[Node], Scalar]] = {
    "t": lambda n: n.t,
    "log_snr": lambda n: n.log_snr,
    "log_sigma/4": lambda n: n.log_snr * -0.25,
    "sigma": lambda n: n.sigma,
    "999t": lambda n: 999.0 * n.t,
    "1-t": lambda n: 1.0 - n.t,
}
"""The time input of a network: "log_sigma/4" is EDM's c_noise for sigma / alpha, "999t" that of
the continuous VP networks of Song et al. 2021, "1-t" a time that runs from noise to data."""


def default_prediction(sde: SDE) -> str:
    """The default prediction of a network under this SDE; see `Preconditioned`."""
    if not isinstance(sde, AffineSDE):
        return "score"
    size = math.hypot(sde.alpha(sde.T), sde.sigma(sde.T))
    return "v" if 0.5 <= size <= 2.0 else "edm"


@final
class Preconditioned(_Calling):
    """A raw network net(x, t, **cond), read as a prediction in one of the coordinates.

    The network is called with x: (B, *D) and a time (B,), in the precision of its weights: state
    and conditions are cast to it, the time is in float32 for a network of half precision, and
    the output is cast to the precision of the state. For "eps", "x0", "v", "score" and "flow"
    (eps - x0, the velocity of flow matching) the output is that coordinate. For "edm" it is F in
    Karras et al. 2022 (arXiv 2206.00364), eq. 7, under any affine SDE:
    x0 = c_skip x + c_out F(c_in x, c_noise), with c_in = 1/sqrt(alpha^2 s^2 + sigma^2),
    c_skip = alpha s^2 c_in^2, c_out = sigma s c_in and s = sigma_data.

    The default is "v" where the states keep about the size of unit data from t = 0 to T (VP,
    sub-VP, cosine, flow, chains), "edm" where they do not (VE, EDM), and "score" under an SDE that
    is not affine. Near t = T an error of eps is multiplied by 1/alpha(T) in x_0, so a network of
    "eps" trains for long before samples of the probability flow stay in the range of the data.

    Args:
        net: the network.
        sde: the SDE; affine, unless predicts="score".
        predicts: "eps", "x0", "v", "score", "flow" or "edm"; None for the default above.
        time: "t", "log_snr", "log_sigma/4" (c_noise), "sigma", "999t", "1-t" or a function of the
            node; by default "log_sigma/4" for "edm", else "t".
        sigma_data: standard deviation of the data, for "edm". If None, it is 1 until a `Trainer`
            measures it.
        null: the values that mean "no condition", by name; the training dropout of conditions
            uses them. By default they are those of the network, if it is one of `scoresde.nets`.

    Raises:
        TypeError: net is not a module, or the SDE is not affine and predicts is not "score".
        ValueError: a name is unknown, the network does not take a name of `null`, or the output
            does not have the shape of x.

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
        null: Mapping[str, object] | None = None,
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
        self.net = net
        self.sde = sde
        self.null = _nulls(net)  # with a label even if a network of the user's own takes none
        if null is not None:
            takes = None if self.takes is None else sorted({*self.takes, *self.null})
            self.null = check_null(null, takes)

    @property
    def nulls(self) -> Mapping[str, object]:
        return self.null

    @property
    def takes(self) -> list[str] | None:
        net = bare(self.net)
        return getattr(net, "takes", None) if _is_conditional(net) else names_of(net.forward)

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        net = bare(self.net)
        if _is_conditional(net):
            cond, classes = net.admit(cond), net.label_classes
        else:
            check_names(cond, net.forward)
            count = getattr(net, "config", {}).get("classes")  # of a network registered in NETS
            classes = {} if count is None else {"label": int(count)}
        always = () if self.data is None else self.data.always_given
        if lacking := [name for name in always if name not in cond]:
            warn_untrained(lacking)
        labels = {name: n for name, n in classes.items() if name in cond}
        return cond | {
            name: as_labels(f"cond[{name!r}]", cond[name], n, self.null.get(name))
            for name, n in labels.items()
        }

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        if self.predicts == "edm":
            return self._edm(node, x, cond)
        return Prediction(x, node, self._output(node, x, cond), self.predicts)

    def _output(self, node: Node, x: Tensor, cond: Cond) -> Tensor:
        """The output of the network, (B, *D)."""
        own = bare(self.net)
        # A network of another library may convert to its own precision, after its preconditioning.
        dtype = None if getattr(own, "casts", False) else own_dtype(own)
        value = self.time(node) if callable(self.time) else TIMES[self.time](node)
        time = Node.column_of(value, x, dtype)
        named = dict(cond or {})
        if dtype is not None and not _is_conditional(own):
            named |= {k: v.to(dtype) for k, v in named.items() if v.is_floating_point()}
        value = self._call(lambda state: self.net(state, time, **named), dtype, x)
        same_shape("net", value, x, "the network must return one value per entry of x")
        return value

    def _edm(self, node: Node, x: Tensor, cond: Cond) -> Prediction:
        std = 1.0 if self.sigma_data is None else self.sigma_data
        scale = node.alpha**2 * std**2 + node.sigma**2
        c_in = 1.0 / sqrt(scale)
        raw = self._output(node, c_in * x, cond)
        c_skip = node.alpha * std**2 * c_in**2
        c_out = node.sigma * std * c_in
        return Prediction(x, node, lincomb((c_skip, x), (c_out, raw)), "x0")


@final
class FunctionScore(_Calling):
    """A function fn(t, x) -> score as a model; `ReverseSampler` wraps such functions itself.

    Along a grid fn receives t as a 0-dim float64 CPU tensor, which mixes with any device and
    dtype; for one time per sample it receives `(B, 1, ..., 1)`. Conditions are passed by name. A
    module is called in the precision of its weights. A function that differentiates, such as
    -grad U of an energy U by torch.autograd.grad, is called with gradients enabled and an x that
    requires them; `log_prob` differentiates it again, which requires create_graph=True.

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

    @property
    def _function(self) -> Callable[..., Tensor]:
        """The function whose arguments are the conditions."""
        return self.fn.forward if isinstance(self.fn, nn.Module) else self.fn

    @property
    def takes(self) -> list[str] | None:
        return names_of(self._function)

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        check_names(cond, self._function)
        return cond

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        time, named = user_time(node.t, x), cond or {}
        dtype = own_dtype(self) if isinstance(self.fn, nn.Module) else None
        value = self._call(lambda state: self.fn(time, state, **named), dtype, x)
        same_shape("fn(t, x)", value, x, "a score has the shape of the state")
        return Prediction(x, node, value, "score")
