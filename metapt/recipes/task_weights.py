"""One learned weight for every task of multitask pre-training."""

from typing import Any

from metapt.hypergrad import implicit
from metapt.models import linear
from metapt.objectives import weighted_tasks
from metapt.recipes.method import Method, Pieces, new_head
from metapt.solvers import neumann
from metapt.types import Meta, Model, Solve, StatefulModel

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
    solve: Solve = neumann(terms=5),
    **how: Any,
) -> Pieces:
    """Pre-trains `encoder` on weighted tasks, fine-tunes a linear head on its features, learns the weights.

    Args:
        encoder: `[B, ...] -> [B, features]`.
        classes: outputs of the head.
        meta: the weights, for example `softmax_weights(tasks)`.
        solve: the inverse-Hessian product of pre-training.
        how: optimizers, loss, transfer and the rest, as in `method.new_head`.
    """
    rule = lambda stage: implicit(stage, solve)
    return new_head(encoder, features, linear(features, tasks), weighted_tasks, classes, meta, rule=rule, **how)
