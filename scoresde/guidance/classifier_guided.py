"""Guidance by a classifier of noisy states, or by any log p(c | x_t)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from scoresde._check import fail, instance, wrong_type
from scoresde._tensor import expand, own_dtype, user_time
from scoresde.cond import Cond, as_labels
from scoresde.guidance.scale import Interval, Scale, ScaleLike, always
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction

__all__ = ["ClassifierGuided"]

LABEL, NO_LABEL = "label", -1


@final
class ClassifierGuided(ScoreModel):
    """Classifier guidance: score + scale * grad_x log p(c | x_t).

    At scale 1, with the exact classifier of the noisy states, this is exactly the score of p(x |
    c). At any other scale it is the score of p_t(x) p_t(c | x)^scale at every noise level by
    itself, which are not the noised versions of one density; see `ClassifierFree`. A classifier
    of clean data is wrong at noise: it must know the noise level. A trained one is least exact
    at high noise, where log p(c | x_t) hardly depends on x_t; x_0 moves by its gradient times
    sigma^2 / alpha, so an interval that leaves out the highest noise is often the better choice.

    Each prediction costs one call of the model, which `calls` counts, and one evaluation and one
    gradient of the classifier, unless the scale is 0. At alpha = 0, where the gradient does not
    determine x_0, there is no guidance unless the model predicts eps or the score.

    Args:
        model: the model of p(x).
        classifier: classifier(t, x) -> logits (B, K) at states x: (B, *D), of which the condition
            "label" chooses one; label -1 means no guidance. Or classifier(t, x, ...) with
            conditions by name as further arguments -> log p(c | x_t) of each sample, (B,). It
            receives t as `FunctionScore` does: a 0-dim float64 CPU tensor along a grid, and
            (B, 1, ..., 1) for one time per sample. A module is called in the precision of its
            weights. `NoiseClassifier` is one, which `scoresde.training.train_classifier` trains.
        scale: a number, or a function of the log-SNR log(alpha / sigma); 0 is the model itself.
        interval: (low, high) in log-SNR, outside of which there is no guidance.
        conditional: whether the model receives the conditions of the classifier too, as in
            Dhariwal and Nichol 2021; by default they are taken out.

    Raises:
        TypeError: the classifier does not take (t, x), or labels are no integers.
        ValueError: the scale or the interval is not valid; at a call, a condition of the
            classifier is missing, a label is not one of its classes, or its result has another
            shape or no gradient in x.

    Source: Dhariwal and Nichol 2021 (arXiv 2105.05233), section 4; Song et al. 2021 (arXiv
    2011.13456), eq. 14.

    Example:
        >>> from scoresde import VPSDE, FunctionScore
        >>> model = FunctionScore(VPSDE(), lambda t, x: -x)
        >>> guided = ClassifierGuided(model, lambda t, x, y: -((y - x) ** 2).sum(1), 0.5)
        >>> guided.score(0.5, torch.zeros(1, 2), {"y": torch.ones(1, 2)}).tolist()
        [[1.0, 1.0]]
    """

    def __init__(
        self,
        model: ScoreModel,
        classifier: Callable[..., Tensor],
        scale: ScaleLike = 1.0,
        *,
        interval: Interval = None,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        instance("conditional", conditional, bool, "pass True or False")
        named = _conditions_of(classifier)
        self.sde = model.sde
        self.model = model
        self.classifier = classifier
        self.scale = Scale(scale, interval, outside=0.0)
        self.scale.check(self.sde)
        self.data = model.data
        self.by_label = not named
        self.names = named or (LABEL,)
        self.conditional = conditional

    @property
    def nulls(self) -> Mapping[str, object]:
        inner = self.model.nulls
        kept = {k: v for k, v in inner.items() if self.conditional or k not in self.names}
        return {**kept, LABEL: NO_LABEL} if self.by_label else kept

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        own, others = self._split(cond)
        classes = getattr(self.classifier, "classes", None)
        if self.by_label and LABEL in own and isinstance(classes, int):
            own[LABEL] = as_labels(f"cond[{LABEL!r}]", own[LABEL], classes, NO_LABEL)
        return {**self.model.admit(others), **own}

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.model.data_scale

    def calls(self, node: Node) -> int:
        return self.model.calls(node)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        own, others = self._split(cond or {})
        prediction = self.model.predict(node, x, others)
        scale = self.scale.at(node)
        if always(scale, 0.0):
            return prediction
        return prediction.shifted(self._gradient(node, x, own), scale)

    def _split(self, cond: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The conditions of the classifier, and those of the model."""
        own = {name: value for name, value in cond.items() if name in self.names}
        others = {k: v for k, v in cond.items() if self.conditional or k not in own}
        return own, others

    def _gradient(self, node: Node, x: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """grad_x log p(c | x_t), (B, *D), in the graph if x is in one."""
        missing = [name for name in self.names if name not in own]
        if missing:
            remedy = f'pass cond={{"{missing[0]}": ...}}, or take scale=0'
            raise fail("cond", f"{missing[0]!r}, for the classifier", list(own) or None, remedy)
        graph = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            at = x if graph else x.detach().requires_grad_()
            value = self._log_prob(node, at, own)
            if not value.requires_grad:
                remedy = "take out no_grad, detach or a trip through numpy"
                expected = "a result that is differentiable in x"
                raise fail("classifier", expected, "one without a graph", remedy)
            (slope,) = torch.autograd.grad(value.sum(), at, create_graph=graph)
        if self.by_label:  # where there is no label, not even NaN of the classifier counts
            slope = torch.where(expand(own[LABEL] < 0, x), 0.0, slope)
        return slope

    def _log_prob(self, node: Node, x: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """log p(c | x_t), (B,)."""
        dtype = own_dtype(self.classifier) if isinstance(self.classifier, nn.Module) else None
        state = x if dtype is None else x.to(dtype)
        given = {} if self.by_label else dict(own)
        value = self.classifier(user_time(node.t, x), state, **given)
        instance("classifier(t, x)", value, Tensor, "return a tensor")
        if not self.by_label:
            if value.shape != x.shape[:1]:
                remedy = "one log-probability per sample; a classifier(t, x) returns logits (B, K)"
                raise fail("classifier(t, x, ...)", f"shape ({len(x)},)", value, remedy)
            return value.to(x.dtype)
        if value.ndim != 2 or len(value) != len(x):
            remedy = "return logits; a log-probability takes its conditions by name"
            raise fail("classifier(t, x)", f"shape ({len(x)}, K)", value, remedy)
        label = as_labels(f"cond[{LABEL!r}]", own[LABEL], value.shape[1], NO_LABEL)
        logs = value.to(x.dtype).log_softmax(1)
        return logs.gather(1, label.clamp_min(0)[:, None])[:, 0]


def _conditions_of(classifier: Callable[..., Tensor]) -> tuple[str, ...]:
    """The arguments of a classifier after (t, x), which are the names of conditions.

    Raises:
        TypeError: it does not take (t, x).
    """
    remedy = (
        "a classifier of clean data is wrong at noise: train a NoiseClassifier, or wrap yours as "
        "lambda t, x: net(x, t)"
    )
    expected = "a function classifier(t, x) of time and noisy state"
    if not callable(classifier):
        raise wrong_type("classifier", expected, classifier, remedy)
    fn = classifier.forward if isinstance(classifier, nn.Module) else classifier
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # of a builtin, which says nothing of its arguments
        return ()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return ()
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    first = [p.name for p in by_place[:2]]
    if len(first) < 2 or first[0] == "x" or first[1] in ("t", "time", "timesteps"):
        raise wrong_type("classifier", expected, f"arguments ({', '.join(first)})", remedy)
    more = [*by_place[2:], *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]
    return tuple(p.name for p in more if p.default is p.empty)
