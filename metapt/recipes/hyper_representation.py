"""A representation shared by tasks, learned so that a head trained on it alone does well on new examples of its task."""

from collections.abc import Callable
from typing import Any

import optax

from metapt import stages
from metapt.hypergrad import unroll
from metapt.meta import initialization
from metapt.objectives import Predict, cross_entropy, mean_over_tasks, on_features
from metapt.recipes.method import Bilevel, Method, bilevel
from metapt.types import Model, Objective, Rule, Stage

METHOD = Method(
    name="hyper_representation",
    summary="a representation of few-shot tasks, learned through the training of one head a task, which starts at zero",
    citation="Franceschi, Frasconi, Salzo, Grazzi, Pontil. Bilevel Programming for Hyperparameter Optimization and "
    "Meta-Learning. ICML 2018",
    slots=("data: episodes", "meta: the encoder", "rule: unroll", "update: gradient"),
)


def hyper_representation(
    encoder: Model,
    head: Model,
    optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    rule: Rule = unroll,
    loss: Callable[[Predict], Objective] = cross_entropy,
    **algorithm: Any,
) -> Bilevel:
    """`phi <- phi - step * mean_i d/dphi L_i(query; U_T(phi), phi)`: phi the encoder, U the training of a task's head.

    An outer step sees `Batches(None, support [T, tasks, B, ...], query [tasks, Q, ...])`. Training must not diverge: keep the
    features in bounds, for example by `models.normalised`.

    Args:
        encoder: `[B, ...] -> [B, features]`.
        head: of one task, `linear(features, ways, zero=True)`: every task starts alike.
        optimizer: of a head; must have a finite derivative.
        rule: how the head that training ends with moves with the encoder. `detached` takes it for a constant, which leaves
            the direct part alone.
        loss: of a task, in training and on the query.
        algorithm: further arguments of `meta_pretraining`.
    """
    inner = Stage(loss(on_features(encoder, head)), optimizer)
    tasks = lambda stage: stages.over_tasks(rule(stage))
    validate, meta = mean_over_tasks(inner.objective), initialization(encoder)
    return bilevel(head, inner, tasks, validate, meta, meta_optimizer, restart=True, **algorithm)
