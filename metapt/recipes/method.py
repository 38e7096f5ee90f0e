"""Where a recipe comes from, as data, and what it gives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jax import Array

from metapt import stages
from metapt.algorithm import Algorithm, AlgorithmState, meta_pretraining
from metapt.hypergrad import implicit, unroll
from metapt.objectives import cross_entropy, whole
from metapt.solvers import neumann
from metapt.types import Fit, Model, Objective, PyTree, Stage, StageState
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
    pretrain_model: Any  # a `StatefulModel` if the encoder is one, else a `Model`
    finetune_model: Any  # encoder and head, as they are fine-tuned in the end
    pretrain: Stage
    finetune: Stage
    pretrain_fit: Fit
    start_pretrain: Callable[[Array], StageState]
    start_finetune: Callable[[Array], StageState]

    def start(self, key: Array, phi: PyTree) -> AlgorithmState:
        """The state before the first outer step; one key gives the same network whatever phi is."""
        return self.algorithm.init(phi, self.start_pretrain(key), self.start_finetune(key))


def same_classes(
    model: Model,
    objective: Objective,
    pretrain_optimizer: optax.GradientTransformation,
    finetune_optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    constrain: Callable[[PyTree], PyTree] = lambda phi: phi,
    rule: Rule = lambda stage: implicit(stage, neumann(terms=20)),
    extra: Callable[[PyTree], PyTree] = lambda params: None,
    **algorithm: Any,
) -> Pieces:
    """Pre-trains `model` on `objective`, goes on fine-tuning all of it for the same classes, and learns phi.

    Args:
        model: `with_head(encoder, head)`, with logits of the classes.
        objective: of pre-training; its context is `constrain(phi)`.
        finetune_optimizer: must have a finite derivative (`optax.adam` needs `eps_root > 0`).
        rule: how pre-training is differentiated.
        extra: what the objective keeps beside the parameters, at the start.
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
        transfer=stages.transfer_all,
        warm_start=False,
        **algorithm,
    )

    def start_pretrain(key: Array) -> StageState:
        params = model.init(key)
        return stages.start(pretrain, params, extra=extra(params))

    start_finetune = lambda key: stages.start(finetune, model.init(key))
    return Pieces(made, model, model, pretrain, finetune, pretrain_fit, start_pretrain, start_finetune)
