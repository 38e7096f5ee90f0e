"""2. What is trained: `Model(init, apply)` over pytrees. Only this folder knows a network library."""

from metapt.models.adapters import from_equinox, from_linen, from_linen_stateful, from_nnx
from metapt.models.convnet import convnet
from metapt.models.critic import by_number, label_critic
from metapt.models.encoders import linear, mlp, projection
from metapt.models.graphs import graph_network
from metapt.models.heads import normalised, relu, with_head
from metapt.models.resnet1d import convolve, resnet1d, warp_network

__all__ = [
    "by_number",
    "convnet",
    "convolve",
    "from_equinox",
    "from_linen",
    "from_linen_stateful",
    "from_nnx",
    "graph_network",
    "label_critic",
    "linear",
    "mlp",
    "normalised",
    "projection",
    "relu",
    "resnet1d",
    "warp_network",
    "with_head",
]
