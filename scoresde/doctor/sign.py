"""The sign: the score points towards the data, so that E<eps, eps_theta> = E|eps_theta|^2 > 0."""

from __future__ import annotations

from scoresde.doctor.probe import Probe, eps_of
from scoresde.doctor.repair import Repair, reread

__all__ = ["sign_repairs"]


def sign_repairs(probe: Probe) -> list[Repair]:
    """The model with the opposite score, and with the opposite output.

    The two differ if the output is not proportional to the score: x_0, v and the flow. The loss
    with the sign reversed is lower by 4 E<eps_theta, -eps>, a mean over rows, whose standard error
    is that of independent rows.
    """
    found = []
    reversed_score = tuple(-value for value in probe.eps)
    kind = probe.predictions[0].kind
    choices = [("score", reversed_score)]
    if kind not in ("score", "eps"):
        output = tuple(eps_of(reread(p, None, -1.0)) for p in probe.predictions)
        choices.append((f"output ({kind})", output))
    for what, eps in choices:
        found.append(
            Repair(
                name="sign",
                number=-1.0,
                reference=1.0,
                sentence=f"The {what} of the model has the wrong sign.",
                remedy="Return the score with the opposite sign: the gradient of log p, not of "
                "the energy, and -eps / sigma for a network of the noise."
                if what == "score"
                else f"Return {kind} with the opposite sign: v is alpha eps - sigma x_0 here, and "
                "the flow eps - x_0, where time runs from data to noise.",
                gain=probe.gain(eps),
                eps=eps,
                tests=2,
            )
        )
    return found
