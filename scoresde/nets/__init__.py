"""Networks called ``net(x, t, label=None)``: MLP for vectors, U-Net and U-ViT for images."""

from scoresde.nets.embed import FourierFeatures, TimeEmbedding
from scoresde.nets.mlp import MLP
from scoresde.nets.unet import UNet
from scoresde.nets.uvit import UViT

__all__ = ["MLP", "FourierFeatures", "TimeEmbedding", "UNet", "UViT"]
