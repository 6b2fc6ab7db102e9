"""The streams of random numbers, and the version of the scheme that draws them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SCHEME", "STREAMS", "Stream"]

SCHEME = 2
"""The version of the random numbers that a seed stands for.

It covers everything that decides which numbers a (seed, stream, segment, sample, interval or
counter) gives: `STREAMS`, the key of a draw, the blocks of samples that share a generator, and
the splits of Brownian paths. A change to any of these raises the version, since samples drawn
before and after it do not belong together. Folders of samples and checkpoints record it, and a
folder that was begun under another scheme is not continued.

Training draws its batches, times and noise from `scoresde.training.stream`, which this version
does not cover: a run resumes to the same weights under any scheme.
"""


class Stream(NamedTuple):
    """One purpose of random numbers.

    Attributes:
        number: what stands for it in the key of a draw; no two streams have the same one.
        use: what it is drawn for.
    """

    number: int
    use: str


STREAMS: dict[str, Stream] = {
    "steps": Stream(0, "increments of the Brownian motion over the steps of a solver"),
    "levy": Stream(1, "space-time Levy areas over the same steps"),
    "prior": Stream(2, "the state at t = T"),
    "renoise": Stream(3, "noise that takes a state up to the start of the next segment"),
    "langevin": Stream(4, "Langevin steps at a node, counted from 0"),
    "path": Stream(5, "the splits of a Brownian path (`BrownianPath`)"),
    "adaptive": Stream(6, "the splits of the path that an adaptive solver follows"),
    "probe": Stream(7, "random vectors that estimate the divergence of a flow"),
    "jensen": Stream(8, "noise at t_end for the likelihood with truncation='jensen'"),
    "dequantise": Stream(9, "dequantisation of discrete data, one counter a draw"),
    "bound": Stream(10, "noise of the evidence lower bound, counted by draw and step"),
    "chain": Stream(11, "noise of a DDPM's bound and variances, counted by draw and step"),
    "statistics": Stream(12, "noise and probes of the statistics of DPM-Solver-v3"),
    "measurement": Stream(13, "the noise of simulated measurements"),
    "resample": Stream(14, "the one number of a systematic resampling, by the time of the node"),
    "repaint": Stream(15, "noise of known entries (`RePaint`), by the time of the node"),
    "posterior": Stream(16, "exact draws of x_0 given a state and y (`DAPS`), by the node's time"),
}
"""Name -> stream: everything that the package draws for a seed, apart from training."""
