"""Where a recipe comes from, as data, and what it gives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from metapt.algorithm import Algorithm, meta_pretraining
from metapt.hypergrad import implicit, unroll
from metapt.objectives import cross_entropy, whole
from metapt.solvers import neumann
from metapt.stages import transfer_all
from metapt.types import Fit, Model, Objective, PyTree, Stage
from metapt.updates import by_gradient

Rule = Callable[[Stage], Fit]


class Method(NamedTuple):
    """A published method: `metapt list` and the README's table are made from it."""

    name: str
    summary: str
    citation: str
    slots: tuple[str, ...]  # the arrows of the flow that the method fills


class Pieces(NamedTuple):
    """The pieces of a method, to be started and stepped."""

    algorithm: Algorithm
    pretrain_model: Model
    finetune_model: Model  # encoder and head, as they are fine-tuned in the end
    head: Model  # the part of it that fine-tuning starts afresh
    pretrain: Stage
    finetune: Stage
    pretrain_fit: Fit


def same_classes(
    model: Model,
    head: Model,
    objective: Objective,
    pretrain_optimizer: optax.GradientTransformation,
    finetune_optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    constrain: Callable[[PyTree], PyTree] = lambda phi: phi,
    rule: Rule = lambda stage: implicit(stage, neumann(terms=20)),
    **algorithm: Any,
) -> Pieces:
    """Pre-trains `model` on `objective`, goes on fine-tuning all of it for the same classes, and learns phi.

    Args:
        model: `with_head(encoder, head)`, with logits of the classes.
        objective: of pre-training; its context is `constrain(phi)`.
        finetune_optimizer: must have a finite derivative (`optax.adam` needs `eps_root > 0`).
        rule: how pre-training is differentiated.
        algorithm: further arguments of `meta_pretraining`, for example `differentiate=central_differences(5.0)`.
    """
    pretrain = Stage(objective, pretrain_optimizer)
    finetune = Stage(cross_entropy(whole(model)), finetune_optimizer)
    pretrain_fit = rule(pretrain)
    made = meta_pretraining(
        pretrain=pretrain_fit,
        finetune=unroll(finetune),
        validate=finetune.objective,
        update=by_gradient(meta_optimizer),
        constrain=constrain,
        transfer=transfer_all,
        warm_start=False,
        **algorithm,
    )
    return Pieces(made, model, model, head, pretrain, finetune, pretrain_fit)
