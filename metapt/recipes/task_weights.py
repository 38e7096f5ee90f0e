"""One learned weight for every task of multitask pre-training."""

from typing import Any

import optax

from metapt.hypergrad import implicit
from metapt.meta import sigmoid_weights
from metapt.models import linear
from metapt.objectives import binary_tasks, weighted_tasks
from metapt.recipes.method import Method, Pieces, new_head
from metapt.solvers import neumann
from metapt.types import Meta, Model, StatefulModel

METHOD = Method(
    name="task_weights",
    summary="weights of pre-training tasks, learned through implicit pre-training and unrolled fine-tuning",
    citation="Raghu, Lorraine, Kornblith, McDermott, Duvenaud. Meta-Learning to Improve Pre-Training. NeurIPS 2021",
    slots=("objective: weighted tasks", "meta: task weights", "rule: implicit into unroll", "update: gradient"),
)


def task_weights(
    encoder: Model | StatefulModel,
    features: int,
    tasks: int,
    classes: int,
    meta: Meta,
    **how: Any,
) -> Pieces:
    """Pre-trains `encoder` on weighted tasks, fine-tunes a linear head on its features, learns the weights.

    Args:
        encoder: `[B, ...] -> [B, features]`.
        classes: outputs of the head.
        meta: the weights, for example `softmax_weights(tasks)`.
        how: optimizers, rule, loss, transfer and the rest, as in `method.new_head`.
    """
    return new_head(encoder, features, linear(features, tasks), weighted_tasks, classes, meta, **how)


def as_published(
    encoder: Model | StatefulModel,
    features: int,
    tasks: int,
    classes: int,
    learning_rate: float = 1e-4,
    terms: int = 1,
    meta_learning_rate: float = 1.0,
) -> Pieces:
    """`task_weights` with the choices of the paper's own code, to measure what they cost.

    The Neumann series has pre-training's learning rate as its step and keeps that factor, so hypergradients are tiny; the
    weights are `2 sigmoid(phi)`, not normalised, moved by Adam with a learning rate of 1, which its epsilon of 1e-8 turns
    into slow descent with momentum; the head goes on from the last outer step, by Adam (epsilon inside the root, too, as
    unrolling needs it), on the plain loss. With a graph network: `data.misplaced_centres` in pre-training.

    Not reproduced: averages that batch normalisation also moves in the hypergradient's passes, Adam moments of the head
    that stay behind its parameters, and losses in float64.

    Source: Raghu et al. 2021, their code.
    """
    return task_weights(
        encoder,
        features,
        tasks,
        classes,
        sigmoid_weights(tasks),
        rule=lambda stage: implicit(stage, neumann(terms, step=learning_rate)),
        pretrain_optimizer=optax.adam(learning_rate),
        finetune_optimizer=optax.adam(learning_rate, eps_root=1e-16),
        meta_optimizer=optax.adam(meta_learning_rate),
        warm_start=True,
        loss=binary_tasks,
    )
