"""The table of the networks."""

from torch import nn

from scoresde.nets.mlp import MLP
from scoresde.nets.unet import UNet
from scoresde.nets.uvit import UViT

__all__ = ["NETS"]

NETS: dict[str, type[nn.Module]] = {"mlp": MLP, "unet": UNet, "uvit": UViT}
"""Name -> network with a `config` of its arguments, for checkpoints and the command line.

`network_for` passes `dim` for vectors (D,), else `channels`, `dims` (the number of spatial axes)
and `size`, and `classes` and `conditions`, as far as the network has these arguments. A network
with `dim` is for vectors, one with `dims` for signals, images and volumes, any other for images.
Its attribute `ends`, a tuple of names, has the modules of its first and last layers, which Muon
leaves to AdamW.
"""
