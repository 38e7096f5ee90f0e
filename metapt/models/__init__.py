"""2. What is trained: `Model(init, apply)` over pytrees. Only this folder knows a network library."""

from metapt.models.adapters import from_equinox, from_linen, from_nnx
from metapt.models.critic import label_critic
from metapt.models.encoders import linear, mlp
from metapt.models.heads import relu, with_head

__all__ = ["from_equinox", "from_linen", "from_nnx", "label_critic", "linear", "mlp", "relu", "with_head"]
