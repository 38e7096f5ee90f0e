"""An initialisation that moves towards where the training of the tasks ends."""

from collections.abc import Callable

import optax

from metapt.hypergrad import detached
from metapt.objectives import Predict, cross_entropy, half_square_from_start
from metapt.recipes.method import Initialization, Method, initialization
from metapt.stages import transfer_all, with_start
from metapt.types import Model, Objective

METHOD = Method(
    name="reptile",
    summary="an initialisation of few-shot tasks that moves towards where their training ends",
    citation="Nichol, Achiam, Schulman. On First-Order Meta-Learning Algorithms. arXiv:1803.02999, 2018",
    slots=("data: episodes", "meta: the initialisation", "objective: distance from the start", "rule: detached"),
)


def reptile(
    model: Model,
    optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    loss: Callable[[Predict], Objective] = cross_entropy,
) -> Initialization:
    """`phi <- phi + step * mean_i (U_K(phi; data_i) - phi)`: descent on the mean of `|phi - U|^2 / 2` with U at rest.

    One step of plain descent is joint training of all tasks. There is no query: put all examples of a task into its support.

    Args:
        model: of one task, its outputs those of a task (`ways` logits).
        optimizer: of a task; any will do.
        meta_optimizer: `optax.sgd(step)` as published.
        loss: of a task, as in `method.initialization`.
    """
    where = with_start(transfer_all)
    return initialization(model, loss, optimizer, meta_optimizer, detached, half_square_from_start, where)
