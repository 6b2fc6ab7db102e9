"""Guidance without a classifier: extrapolation from the unconditional to the conditional score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, floating, instance, nearest
from scoresde.cond import Cond, check_null, warn_untrained, without
from scoresde.guidance.scale import Interval, Scale, ScaleLike, always, between
from scoresde.model import ScoreModel, summary_of
from scoresde.node import Node
from scoresde.prediction import Prediction

__all__ = ["ClassifierFree"]


@final
class ClassifierFree(ScoreModel):
    """Classifier-free guidance: s_u + scale (s_c - s_u), in one call of the model.

    s_c is the score given the conditions and s_u the one with the conditions replaced by their
    values for "not given", which a model knows that was trained with dropout of its conditions.
    Scale 0 is the unconditional and 1 the conditional score; each is one plain call of the model
    and equal to it bitwise. At any other scale the model is called once on (conditions, nulls), a
    batch of twice the size, which counts as two evaluations.

    At a scale w above 1 the score is that of p_t(x) p_t(c | x)^w at every noise level t by itself.
    These densities are not the noised versions of one another, so samples follow no density with
    a name, and what they follow depends on the schedule and on eta: guidance sharpens the class
    and shrinks its spread. Only scales 0 and 1 sample what they say.

    Other packages: the guidance weight of EDM and EDM2 and `guidance_scale` of diffusers are this
    scale; `guidance` of azula and w of Ho and Salimans are scale - 1, so 0 is conditional there.

    Args:
        model: the model of p(x | c) and p(x).
        scale: a number, or a function of the log-SNR log(alpha / sigma); see `Scale`.
        interval: (low, high) in log-SNR. Outside of it the score is s_c, at half the cost, as in
            Kynkaanniemi et al. 2024, who found guidance harmful at high noise. A range of
            EDM's noise levels (low, high) is (-log high, -log low) here.
        null: the values that mean "not given", by name, by default `model.nulls`. A condition
            without one, such as a measurement, is given to both scores.

    A model that was trained without dropout of its conditions gets a warning, since it never
    learned s_u.

    Raises:
        TypeError: the scale depends on the log-SNR and the SDE is not affine.
        ValueError: the scale is not finite, the interval not increasing, or `null` has a name that
            the model does not take; at a call, no condition with a value for "not given" is there
            and the scale is not 1.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), eq. 6; Kynkaanniemi et al. 2024 (arXiv
    2404.07724).

    Example:
        >>> from scoresde import VPSDE, FunctionScore
        >>> def fn(t, x, label):
        ...     return torch.where(label[:, None] < 0, -x, label[:, None] - x)
        >>> model = FunctionScore(VPSDE(), fn)
        >>> guided = ClassifierFree(model, 3.0, null={"label": -1})
        >>> guided.score(0.5, torch.zeros(2, 1), {"label": torch.tensor([1, 2])}).tolist()
        [[3.0], [6.0]]
    """

    def __init__(
        self,
        model: ScoreModel,
        scale: ScaleLike,
        *,
        interval: Interval = None,
        null: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        self.sde = model.sde
        self.model = model
        self.data = model.data
        self.scale = Scale(scale, interval)
        self.scale.check(self.sde)
        self.null = None if null is None else check_null(null, model.takes)
        known = summary_of(model)
        if known is not None and known.always_given and self.scale.value != 1.0:
            warn_untrained(known.always_given, guided=True)

    @property
    def nulls(self) -> Mapping[str, object]:
        return self.model.nulls if self.null is None else self.null

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model.admit(cond)

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.model.data_scale

    def calls(self, node: Node) -> int:
        scale = self.scale.at(node)
        plain = always(scale, 0.0) or always(scale, 1.0)
        return self.model.calls(node) * (1 if plain else 2)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        scale = self.scale.at(node)
        if always(scale, 1.0):
            return self.model.predict(node, x, cond)
        if always(scale, 0.0):
            return self.model.predict(node, x, self._empty(cond or {}))
        given, left_out = self.pair(node, x, cond)
        return Prediction(x, node, between(left_out.value, given.value, scale), given.kind)

    def pair(self, node: Node, x: Tensor, cond: Cond = None) -> tuple[Prediction, Prediction]:
        """The predictions with and without the conditions, by one call of twice the batch.

        Args:
            node: the point of the schedule.
            x: the states, (B, *D).
            cond: the conditions, name -> (B, ...).

        Raises:
            ValueError: no condition has a value for "not given".
        """
        instance("node", node, Node, "pass model.sde.at(t), for a time t")
        floating("x", x)
        cond = {} if cond is None else cond
        instance("cond", cond, Mapping, 'pass name -> tensor, e.g. {"label": labels}')
        empty = self._empty(cond)
        both = {name: torch.cat([value, empty[name]]) for name, value in cond.items()}
        whole = self.model.predict(node.map(_twice), _twice(x), both)
        given, left_out = whole.value.chunk(2)
        return Prediction(x, node, given, whole.kind), Prediction(x, node, left_out, whole.kind)

    def _empty(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The conditions that are left out, or a ValueError if none can be."""
        if any(name in self.nulls for name in cond):
            return without(cond, self.nulls)
        known = ", ".join(map(repr, self.nulls))
        expected = "a condition with a value for 'not given'"
        if not known:
            expected += ", which the model has for none"
            remedy = "name it, null={name: value}, or take scale=1"
        else:
            expected += f", of {known}"
            remedy = "pass cond={name: ...}, or take scale=1; guide the model inside Conditioned"
            if cond:
                name = next(iter(cond))
                remedy = (
                    f"name its value, null={{{name!r}: value}}, in the training too, or {remedy}"
                )
            near = [(nearest(name, cond), name) for name in self.nulls]
            pairs = [f"{name!r} in null, where it has {null!r}" for name, null in near if name]
            if pairs:
                remedy = f"name {', '.join(pairs)}"
        raise fail("cond", expected, list(cond) or None, remedy)


def _twice(value: Tensor) -> Tensor:
    """Twice the batch; a value that all samples share, as of a node of tensors, stays one."""
    return torch.cat([value, value]) if value.ndim else value
