"""Networks called ``net(x, t, **cond)``: MLP for vectors, U-Net and U-ViT for all else."""

from scoresde.nets.build import infer_conditions, network_for, presets
from scoresde.nets.conditioner import ConditionalNet
from scoresde.nets.conditions import Image, Label, Set, Spec, Vector
from scoresde.nets.embed import FourierFeatures, TimeEmbedding, level_exponents
from scoresde.nets.mlp import MLP
from scoresde.nets.registry import NETS
from scoresde.nets.unet import UNet
from scoresde.nets.uvit import UViT

__all__ = [
    "MLP",
    "NETS",
    "ConditionalNet",
    "FourierFeatures",
    "Image",
    "Label",
    "Set",
    "Spec",
    "TimeEmbedding",
    "UNet",
    "UViT",
    "Vector",
    "infer_conditions",
    "level_exponents",
    "network_for",
    "presets",
]
