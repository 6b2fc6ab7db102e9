"""Networks called ``net(x, t, label=None)``: MLP for vectors, U-Net and U-ViT for images."""

from torch import nn

from scoresde.nets.embed import FourierFeatures, TimeEmbedding
from scoresde.nets.mlp import MLP
from scoresde.nets.unet import UNet
from scoresde.nets.uvit import UViT

__all__ = ["MLP", "NETS", "FourierFeatures", "TimeEmbedding", "UNet", "UViT"]

NETS: dict[str, type[nn.Module]] = {"mlp": MLP, "unet": UNet, "uvit": UViT}
"""Name -> network with a `config` of its arguments, for checkpoints and the command line.

The command line passes `dim` for vectors (D,), `channels` and `size` for images (C, H, W), and
`classes`, if the network has these arguments. A network with `dim` is for vectors, any other for
images. Its attribute `ends` names the modules of its first and last layers, which Muon leaves to
AdamW.
"""
