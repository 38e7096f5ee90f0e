"""Learned views of contrastive pre-training."""

from typing import Any

from metapt.data import View
from metapt.models import projection
from metapt.objectives import binary_tasks, contrastive
from metapt.recipes.method import Method, Pieces, new_head
from metapt.types import Meta, Model, StatefulModel

METHOD = Method(
    name="simclr_augmentation",
    summary="views of contrastive pre-training, learned through implicit pre-training and unrolled fine-tuning",
    citation="Raghu, Lorraine, Kornblith, McDermott, Duvenaud. Meta-Learning to Improve Pre-Training. NeurIPS 2021; "
    "Chen, Kornblith, Norouzi, Hinton. A Simple Framework for Contrastive Learning of Visual Representations. ICML 2020",
    slots=("data: differentiable views", "objective: contrastive", "meta: of the views", "rule: implicit into unroll"),
)


def simclr_augmentation(
    encoder: Model | StatefulModel,
    features: int,
    classes: int,
    view: View,
    meta: Meta,
    temperature: float = 0.5,
    **how: Any,
) -> Pieces:
    """Pre-trains `encoder` to tell examples by two views, fine-tunes a linear head for many labels, learns the views.

    Pre-training's batches are `(x, ...)`, without need of labels; those of fine-tuning `(x, y [B, classes])`, seen as
    they are. The head of pre-training has one hidden layer of `features` units and `features // 2` outputs.

    Args:
        encoder: `[B, ...] -> [B, features]`, for example `models.resnet1d(channels)` with 256 features.
        classes: binary labels of an example.
        view: used twice, with keys of its own, for example
            `data.in_turn(data.crop_mask, data.scaled_noise, data.by_input(data.time_warp))`.
        meta: `constrain(phi)` is the context of the view, for example `meta.warp_strength(models.warp_network(channels))`.
        how: optimizers, rule, transfer and the rest, as in `method.new_head`; the loss is `binary_tasks` if not given.
    """
    objective = lambda predict: contrastive(predict, view, temperature=temperature)
    head = projection(features, features, features // 2)
    return new_head(encoder, features, head, objective, classes, meta, **{"loss": binary_tasks, **how})
