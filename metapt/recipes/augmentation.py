"""A learned augmentation of supervised pre-training."""

from typing import Any

from metapt.data import View
from metapt.models import linear, with_head
from metapt.objectives import cross_entropy, on_view, whole, with_l2
from metapt.recipes.method import Method, Pieces, same_classes
from metapt.types import Model

METHOD = Method(
    name="augmentation",
    summary="parameters of an augmentation, learned through implicit pre-training and unrolled fine-tuning",
    citation="Raghu, Lorraine, Kornblith, McDermott, Duvenaud. Meta-Learning to Improve Pre-Training. NeurIPS 2021",
    slots=("data: a differentiable view", "meta: its parameters", "rule: implicit into unroll", "update: gradient"),
)


def augmentation(encoder: Model, features: int, classes: int, view: View, l2: float = 0.0, **how: Any) -> Pieces:
    """Pre-trains on `view(phi, x, key)`, fine-tunes on images as they are, learns phi.

    Args:
        encoder: `[B, ...] -> [B, features]`.
        view: differentiable in its first argument, for example `data.random_rotation(std=1.0)`.
        l2: strength of the penalty in pre-training: curvature where the loss has none.
        how: optimizers, rule and the rest, as in `method.same_classes`.
    """
    model = with_head(encoder, linear(features, classes))
    return same_classes(model, on_view(with_l2(cross_entropy(whole(model)), l2), view), **how)
