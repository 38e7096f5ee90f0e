"""A network that weighs every example of supervised pre-training."""

from typing import Any

from metapt.data import View
from metapt.objectives import on_view, weighted_cross_entropy, whole, with_l2, with_teacher
from metapt.recipes.method import Method, Pieces, same_classes
from metapt.types import Meta, Model

METHOD = Method(
    name="example_weights",
    summary="a network that weighs examples with doubtful labels, learned through implicit pre-training",
    citation="Raghu, Lorraine, Kornblith, McDermott, Duvenaud. Meta-Learning to Improve Pre-Training. NeurIPS 2021; "
    "Shu et al. Meta-Weight-Net. NeurIPS 2019",
    slots=("objective: weighted by example", "meta: a network", "rule: implicit into unroll", "update: gradient"),
)


def example_weights(model: Model, meta: Meta, view: View, l2: float, teacher_decay: float, **how: Any) -> Pieces:
    """Pre-trains on examples weighed by `meta`, which sees the batch and an averaged copy of the network; learns `meta`.

    Args:
        model: `with_head(encoder, head)`; the `extra` of pre-training is the averaged copy, the teacher.
        meta: `constrain(phi)(batch, teacher) -> [B]`, for example `relative_example_weights(label_critic(model, ...))`.
        view: an augmentation that nothing is learned of; it delays learning wrong labels by heart.
        l2: strength of the penalty in pre-training.
        teacher_decay: of the average, at every step.
        how: optimizers, rule and the rest, as in `method.same_classes`.
    """
    weighted = with_l2(weighted_cross_entropy(whole(model)), l2)
    objective = with_teacher(on_view(weighted, view), teacher_decay)
    return same_classes(model, objective, constrain=meta.constrain, extra=lambda params: params, **how)
