"""Pre-training and fine-tuning tasks trained together from the start, with or without gradient surgery."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jax import Array

from metapt import optimizers, stages
from metapt.hypergrad import implicit
from metapt.models import linear
from metapt.objectives import Predict, cross_entropy, together, whole
from metapt.recipes.method import Method, Pieces
from metapt.types import Fit, Objective, Stage, StageState

METHOD = Method(
    name="cotraining",
    summary="pre-training and fine-tuning tasks at once, conflicting gradients projected off each other (PCGrad)",
    citation="Yu, Kumar, Gupta, Levine, Hausman, Finn. Gradient Surgery for Multi-Task Learning. NeurIPS 2020",
    slots=("objective: both stages' together", "optimizer: projected gradients"),
)


class Cotraining(NamedTuple):
    """One stage that sees batches `(pre-training's, fine-tuning's)` and, as context, the weights of pre-training's tasks."""

    fit: Fit
    start: Callable[[Array], StageState]
    pretrained: Callable[[StageState], StageState]  # what `start` and `fit` give, as if pre-training had ended with it


def cotraining(
    pieces: Pieces,
    features: int,
    classes: int,
    optimizer: optax.GradientTransformation,
    surgery: bool = False,
    loss: Callable[[Predict], Objective] = cross_entropy,
) -> Cotraining:
    """Trains the encoder of `pieces` with its own pre-training head and a second head of `classes` outputs.

    Args:
        pieces: of `task_weights`, whose tasks, network and start are used.
        features: inputs of the second head.
        optimizer: of everything at once.
        surgery: project the two gradients of the encoder off each other where they conflict.
        loss: of fine-tuning.
    """
    objective = together(pieces.pretrain.objective, loss(whole(pieces.finetune_model)), copies=surgery)
    shared = {"encoder": True, "head": False, "second_head": False}
    stage = Stage(objective, optax.chain(optimizers.pcgrad(shared), optimizer) if surgery else optimizer)
    second_head = linear(features, classes, zero=True)

    def start(key: Array) -> StageState:
        state = pieces.start_pretrain(key)
        params = {**state.params, "second_head": second_head.init(jax.random.fold_in(key, 1))}
        return stages.start(stage, optimizers.replicate(params, 2) if surgery else params, state.extra)

    def pretrained(state: StageState) -> StageState:
        return state._replace(params=optimizers.merge(state.params)) if surgery else state

    return Cotraining(implicit(stage), start, pretrained)
