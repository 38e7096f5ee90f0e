"""One learned weight for every task of multitask pre-training."""

from collections.abc import Callable
from typing import Literal

import optax

from metapt import stages
from metapt.algorithm import meta_pretraining
from metapt.hypergrad import implicit, unroll
from metapt.models import linear, with_head
from metapt.objectives import Predict, cross_entropy, on_features, weighted_tasks, whole
from metapt.recipes.method import Method, Pieces
from metapt.solvers import neumann
from metapt.types import Meta, Model, Objective, Solve, Stage, StatefulModel
from metapt.updates import by_gradient

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
    pretrain_optimizer: optax.GradientTransformation,
    finetune_optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    solve: Solve = neumann(terms=5),
    warm_start: bool = False,
    loss: Callable[[Predict], Objective] = cross_entropy,
    transfer: Literal["head", "network"] = "head",
) -> Pieces:
    """Pre-trains `encoder` on weighted tasks, fine-tunes a linear head on its features, learns the weights.

    Batch normalisation of a stateful encoder goes by the batch in pre-training, by pre-training's running averages after it.

    Args:
        encoder: `[B, ...] -> [B, features]`.
        classes: outputs of the head.
        meta: the weights, for example `softmax_weights(tasks)`.
        finetune_optimizer: must have a finite derivative (`optax.adam` needs `eps_root > 0`).
        warm_start: the head goes on from the last outer step, as in the paper. By default it starts afresh each time:
            a head that has long overfitted its few labels makes the validation gradient speak of the head, not of the
            features (on the digits, weights that separate real from noise tasks became hardly better than chance).
        loss: of fine-tuning: `cross_entropy`, `binary_tasks` or, where 1s are rare, `balanced_tasks`.
        transfer: what fine-tuning trains inside meta-learning: the `"head"`, as in the paper, or the whole `"network"`.
    """
    pretrain_model = with_head(encoder, linear(features, tasks))
    head = linear(features, classes, zero=True)
    finetune_model = with_head(encoder, head)
    of_head = transfer == "head"
    pretrain = Stage(weighted_tasks(whole(pretrain_model)), pretrain_optimizer)
    predict = on_features(encoder, head) if of_head else whole(finetune_model, mode="frozen")
    finetune = Stage(loss(predict), finetune_optimizer)
    pretrain_fit = implicit(pretrain, solve)
    algorithm = meta_pretraining(
        pretrain=pretrain_fit,
        finetune=unroll(finetune),
        validate=finetune.objective,
        update=by_gradient(meta_optimizer),
        constrain=meta.constrain,
        transfer=stages.with_extra(stages.transfer_features if of_head else stages.transfer_encoder),
        warm_start=warm_start,
    )
    return Pieces(
        algorithm,
        pretrain_model,
        finetune_model,
        pretrain,
        finetune,
        pretrain_fit,
        start_pretrain=lambda key: stages.start_model(pretrain, pretrain_model, key),
        start_finetune=lambda key: stages.start_model(finetune, head if of_head else finetune_model, key),
    )
