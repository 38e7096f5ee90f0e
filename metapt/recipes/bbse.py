"""Training for a target whose classes have other shares, from the predictions of any network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import Partial

from metapt import stages
from metapt.data import Labelled
from metapt.hypergrad import implicit
from metapt.objectives import weighted_cross_entropy, whole, with_l2
from metapt.recipes.method import Method
from metapt.types import Fit, Model, PyTree, Stage, StageState
from metapt.updates import by_confusion, label_shift, no_shift_p_value

METHOD = Method(
    name="bbse",
    summary="class weights for a target with other class shares, estimated from a confusion matrix (BBSE, BBSC)",
    citation="Lipton, Wang, Smola. Detecting and Correcting for Label Shift with Black Box Predictors. ICML 2018",
    slots=("objective: weighted by class", "update: a linear solve"),
)


class Correction(NamedTuple):
    """Train with the context of equal weights, estimate, train afresh with the context of the estimate."""

    fit: Fit
    start: Callable[[Array], StageState]
    context: Callable[[Array], PyTree]  # class weights [C] -> what `fit` sees
    estimate: Callable[[PyTree, Labelled, Array], Array]  # (trained params, held-out source, target's x) -> weights [C]
    p_value: Callable[[PyTree, Array, Array], Array]  # (trained params, held-out source's x, target's x): no shift?


def bbse(
    model: Model,
    classes: int,
    optimizer: optax.GradientTransformation,
    l2: float,
    least: float,
    soft: bool = False,
) -> Correction:
    """Trains `model` on the source, weighs its classes as the target has them.

    Args:
        model: `[B, ...] -> [B, classes]`, logits.
        l2: strength of the penalty. Without any, a network that fits every example ignores the weights.
        least: the smallest singular value of the confusion matrix that is inverted; below it the weights stay 1.
        soft: use the probabilities, not the decisions.
    """
    stage = Stage(with_l2(weighted_cross_entropy(whole(model)), l2), optimizer)
    update = by_confusion(least)

    def says(params: PyTree, x: Array) -> Array:
        logits = model.apply(params, x)
        return jax.nn.softmax(logits) if soft else jax.nn.one_hot(logits.argmax(-1), classes, dtype=logits.dtype)

    def estimate(params: PyTree, held_out: Labelled, target: Array) -> Array:
        x, y = map(jnp.asarray, held_out)
        evidence = label_shift(says(params, x), y, says(params, target))
        equal = jnp.ones(classes)
        return update.apply(evidence, update.init(equal), equal)[0]

    return Correction(
        fit=implicit(stage),
        start=lambda key: stages.start(stage, model.init(key)),
        context=lambda weights: Partial(_of_class, weights),
        estimate=estimate,
        p_value=lambda params, source, target: no_shift_p_value(says(params, source), says(params, target)),
    )


def _of_class(weights: Array, batch: PyTree) -> Array:
    return weights[batch[1]]
