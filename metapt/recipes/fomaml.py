"""An initialisation, learned as if the end of a task's training moved with its start, one to one."""

from collections.abc import Callable

import optax

from metapt.hypergrad import first_order
from metapt.objectives import Predict, cross_entropy
from metapt.recipes.method import Initialization, Method, initialization
from metapt.types import Model, Objective

METHOD = Method(
    name="fomaml",
    summary="an initialisation of few-shot tasks, learned by the gradient where their training ends",
    citation="Finn, Abbeel, Levine. Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017",
    slots=("data: episodes", "meta: the initialisation", "rule: first order", "update: gradient"),
)


def fomaml(
    model: Model,
    optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    loss: Callable[[Predict], Objective] = cross_entropy,
) -> Initialization:
    """`phi <- phi - step * mean_i grad L_i(query, U_K(phi; support_i))`: MAML with the identity for dU/dphi.

    Args:
        model: of one task, its outputs those of a task (`ways` logits).
        optimizer: of a task; any will do.
        loss: of a task, as in `method.initialization`.
    """
    return initialization(model, loss, optimizer, meta_optimizer, first_order)
