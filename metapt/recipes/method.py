"""Where a recipe comes from, as data, and what it gives."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import optax
from jax import Array

from metapt import meta, stages
from metapt.algorithm import Algorithm, AlgorithmState, meta_pretraining
from metapt.hypergrad import implicit, unroll
from metapt.models import linear, with_head
from metapt.objectives import Predict, cross_entropy, mean_over_tasks, on_features, whole
from metapt.solvers import neumann
from metapt.types import Fit, Meta, Model, Objective, PyTree, Rule, Stage, StageState, StatefulModel, Transfer
from metapt.updates import by_gradient


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


class Initialization(NamedTuple):
    """A method that learns where the training of every task starts; there is no other pre-training."""

    algorithm: Algorithm
    meta: Meta
    finetune: Stage  # of one task

    def start(self, key: Array) -> AlgorithmState:
        """The state before the first outer step, phi drawn from `key`."""
        phi = self.meta.init(key)
        return self.algorithm.init(phi, StageState(phi, None, None), stages.start(self.finetune, phi))


class Pretraining(NamedTuple):
    """A method that pre-trains an encoder, and learns no meta-parameters by itself."""

    stage: Stage
    fit: Fit  # the encoder is `params["encoder"]` of the state
    start: Callable[[Array], StageState]
    head: Callable[[PyTree, Array], Array]  # (params, features [B, ...]) -> what the loss compares [B, D]


class Bilevel(NamedTuple):
    """A method with one stage of training, `inner`, which the meta-parameters steer from its first step."""

    algorithm: Algorithm
    meta: Meta
    inner: Stage
    fit: Fit
    model: Model  # what the inner stage trains

    def start(self, key: Array) -> AlgorithmState:
        """The state before the first outer step."""
        phi_key, model_key = jax.random.split(key)
        state = stages.start_model(self.inner, self.model, model_key)
        return self.algorithm.init(self.meta.init(phi_key), state, state)


def bilevel(
    model: Model,
    inner: Stage,
    rule: Rule,
    validate: Objective,
    meta: Meta,
    meta_optimizer: optax.GradientTransformation,
    restart: bool,
    **algorithm: Any,
) -> Bilevel:
    """Learns what `inner`, the only stage there is, sees as its context, from the loss of what it ends with.

    An outer step sees `Batches(None, inner's, validation's)` if training starts afresh every time, and
    `Batches(inner's, None, validation's)` if it goes on, so that P steps are as good as many.

    Args:
        rule: how the end of training moves with the context: any if it starts afresh, for what goes on `implicit` and its kin.
        validate: a loss of the trained parameters; its context is that of `inner` if training starts afresh, else None.
        restart: whether training starts afresh at every outer step.
        algorithm: further arguments of `meta_pretraining`, for example `differentiate=hypergrad.forward`.
    """
    fit = rule(inner)
    made = meta_pretraining(
        *((stages.untouched, fit) if restart else (fit, stages.untouched)),
        validate,
        by_gradient(meta_optimizer),
        meta.constrain,
        stages.transfer_meta if restart else stages.transfer_all,
        warm_start=False,
        **algorithm,
    )
    return Bilevel(made, meta, inner, fit, model)


def initialization(
    model: Model,
    loss: Callable[[Predict], Objective],
    optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    rule: Rule,
    validate: Objective | None = None,
    transfer: Transfer = stages.transfer_all,
) -> Initialization:
    """Learns parameters of `model` from which K steps of `optimizer` solve a new task.

    An outer step sees `Batches(None, support [K, T, B, ...], query [T, Q, ...])`: T tasks start at phi, are trained on their
    support for K steps, and judged on their query; phi moves by the mean.

    Args:
        loss: of a task, for example `cross_entropy` or `squared_error`.
        rule: how the end of a task's training moves with its start.
        validate: what is judged, by default `loss` on the query.
        transfer: what the tasks see as their context, by default nothing.
    """
    stage, learned = Stage(loss(whole(model)), optimizer), meta.initialization(model)
    algorithm = meta_pretraining(
        stages.given,
        stages.over_tasks(rule(stage)),
        mean_over_tasks(validate or stage.objective),
        by_gradient(meta_optimizer),
        learned.constrain,
        transfer,
        warm_start=False,
    )
    return Initialization(algorithm, learned, stage)


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
        pretrain_fit,
        unroll(finetune),
        finetune.objective,
        by_gradient(meta_optimizer),
        constrain,
        transfer=stages.transfer_all,
        warm_start=False,
        **algorithm,
    )

    def start_pretrain(key: Array) -> StageState:
        params = model.init(key)
        return stages.start(pretrain, params, extra=extra(params))

    start_finetune = lambda key: stages.start(finetune, model.init(key))
    return Pieces(made, model, model, pretrain, finetune, pretrain_fit, start_pretrain, start_finetune)


def new_head(
    encoder: Model | StatefulModel,
    features: int,
    head: Model,
    objective: Callable[[Predict], Objective],
    classes: int,
    meta: Meta,
    pretrain_optimizer: optax.GradientTransformation,
    finetune_optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    rule: Rule = lambda stage: implicit(stage, neumann(terms=5)),
    warm_start: bool = False,
    loss: Callable[[Predict], Objective] = cross_entropy,
    transfer: Literal["head", "network"] = "head",
    passes: int = 1,
    **algorithm: Any,
) -> Pieces:
    """Pre-trains `encoder` under a head of its own, fine-tunes a linear head on its features, learns `meta`.

    Batch normalisation of a stateful encoder goes by the batch in pre-training, by pre-training's running averages after it.

    Args:
        encoder: `[B, ...] -> [B, features]`.
        head: of pre-training.
        objective: of pre-training, from a `Predict`; its context is `meta.constrain(phi)`.
        classes: outputs of the head of fine-tuning.
        finetune_optimizer: must have a finite derivative (`optax.adam` needs `eps_root > 0`).
        rule: how pre-training is differentiated.
        warm_start: the head goes on from the last outer step, as in the paper. By default it starts afresh each time:
            a head that has long overfitted its few labels makes the validation gradient speak of the head, not of the
            features (on the digits, weights that separate real from noise tasks became hardly better than chance).
        loss: of fine-tuning: `cross_entropy`, `binary_tasks` or, where 1s are rare, `balanced_tasks`.
        transfer: what fine-tuning trains inside meta-learning: the `"head"`, as in the paper, or the whole `"network"`.
        passes: of fine-tuning over its batches: K is `passes` times their number. The head alone is trained on features
            that are found once, so further passes are about free.
        algorithm: further arguments of `meta_pretraining`, for example `differentiate=central_differences(5.0)`.
    """
    if transfer not in ("head", "network"):
        raise ValueError(f"transfer={transfer!r} must be 'head' or 'network', what fine-tuning trains")
    if transfer == "network" and passes != 1:
        raise ValueError(
            f"passes={passes} needs transfer='head'; give more batches (K) to fine-tune the network for longer"
        )
    pretrain_model = with_head(encoder, head)
    new = linear(features, classes, zero=True)
    finetune_model = with_head(encoder, new)
    pretrain = Stage(objective(whole(pretrain_model)), pretrain_optimizer)
    if transfer == "head":
        tuned, predict, carry = new, on_features(encoder, new), stages.transfer_features
        finetune = Stage(loss(whole(new)), finetune_optimizer)
        finetune_fit = stages.on_encoded(unroll(finetune), whole(encoder, mode="running"), passes)
    else:
        tuned, predict, carry = finetune_model, whole(finetune_model, mode="frozen"), stages.transfer_encoder
        finetune = Stage(loss(predict), finetune_optimizer)
        finetune_fit = unroll(finetune)
    pretrain_fit = rule(pretrain)
    made = meta_pretraining(
        pretrain_fit,
        finetune_fit,
        loss(predict),
        by_gradient(meta_optimizer),
        meta.constrain,
        stages.with_extra(carry),
        warm_start,
        **algorithm,
    )
    start_pretrain = lambda key: stages.start_model(pretrain, pretrain_model, key)
    # With pre-training's averages, which come with every transfer: a head that goes on has to come back as it went.
    start_finetune = lambda key: stages.start_model(finetune, tuned, key)._replace(extra=start_pretrain(key).extra)
    return Pieces(
        made, pretrain_model, finetune_model, pretrain, finetune, pretrain_fit, start_pretrain, start_finetune
    )
