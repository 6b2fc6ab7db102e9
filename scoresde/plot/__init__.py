"""Figures of samples, paths, densities, bounds, losses and solvers, made from arrays.

The functions change no global state: they use matplotlib's object-oriented API (no pyplot, no
window, no display) under a style that ends with the call, and return a Figure. `save` writes it
to a file, a notebook shows it, and `figure.axes` gives access to its parts. Only `animate` writes
a file itself, a GIF.
"""

from scoresde.plot.bound import bound_terms
from scoresde.plot.comparison import quality_against_nfe
from scoresde.plot.curves import curve
from scoresde.plot.density import density_evolution, marginals
from scoresde.plot.images import image_grid, trajectories
from scoresde.plot.motion import animate
from scoresde.plot.picture import likelihoods, samples
from scoresde.plot.plane import paths_2d, scatter
from scoresde.plot.posterior import reconstructions
from scoresde.plot.series import columns_of, signals
from scoresde.plot.style import save

__all__ = [
    "animate",
    "bound_terms",
    "columns_of",
    "curve",
    "density_evolution",
    "image_grid",
    "likelihoods",
    "marginals",
    "paths_2d",
    "quality_against_nfe",
    "reconstructions",
    "samples",
    "save",
    "scatter",
    "signals",
    "trajectories",
]
