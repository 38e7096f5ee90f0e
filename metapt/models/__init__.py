"""2. What is trained: `Model(init, apply)` over pytrees. Only this folder knows a network library."""

from metapt.models.adapters import from_equinox, from_linen, from_linen_stateful, from_nnx
from metapt.models.critic import label_critic
from metapt.models.encoders import linear, mlp
from metapt.models.graphs import graph_network
from metapt.models.heads import relu, with_head

__all__ = [
    "from_equinox",
    "from_linen",
    "from_linen_stateful",
    "from_nnx",
    "graph_network",
    "label_critic",
    "linear",
    "mlp",
    "relu",
    "with_head",
]
