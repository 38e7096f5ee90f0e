"""An initialisation from which a few steps of training solve a new task."""

from collections.abc import Callable

import optax

from metapt.hypergrad import unroll
from metapt.objectives import Predict, cross_entropy
from metapt.recipes.method import Initialization, Method, initialization
from metapt.types import Model, Objective

METHOD = Method(
    name="maml",
    summary="an initialisation of few-shot tasks, learned through every step of their training",
    citation="Finn, Abbeel, Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017",
    slots=("data: episodes", "meta: the initialisation", "rule: unroll", "update: gradient"),
)


def maml(
    model: Model,
    optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    loss: Callable[[Predict], Objective] = cross_entropy,
) -> Initialization:
    """`phi <- phi - step * mean_i d/dphi L_i(query, U_K(phi; support_i))`, exact through the K steps of U.

    Args:
        model: of one task, its outputs those of a task (`ways` logits).
        optimizer: of a task; must have a finite derivative.
        loss: of a task, as in `method.initialization`.
    """
    return initialization(model, loss, optimizer, meta_optimizer, unroll)
