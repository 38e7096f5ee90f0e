"""One weight for each example of a training set with wrong labels, learned through training on it from its first step."""

from typing import Any

import optax

from metapt.hypergrad import unroll
from metapt.meta import relative_example_weights
from metapt.models import by_number
from metapt.objectives import cross_entropy, weighted_cross_entropy, whole, with_l2
from metapt.recipes.method import Bilevel, Method, bilevel
from metapt.types import Model, Rule, Stage

METHOD = Method(
    name="hyper_cleaning",
    summary="one weight a training example with a doubtful label, learned through every step of training",
    citation="Franceschi, Donini, Frasconi, Pontil. Forward and Reverse Gradient-Based Hyperparameter Optimization. ICML 2017; "
    "Franceschi, Frasconi, Salzo, Grazzi, Pontil. Bilevel Programming for Hyperparameter Optimization and Meta-Learning. "
    "ICML 2018",
    slots=("objective: weighted by example", "meta: one number an example", "rule: unroll", "update: gradient"),
)


def hyper_cleaning(
    model: Model,
    examples: int,
    optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    l2: float = 0.0,
    rule: Rule = unroll,
    **algorithm: Any,
) -> Bilevel:
    """`w(phi)` minimises the clean examples' loss of `U_T(w)`, where U is training on `mean_i w_i l_i`, `w = v / mean(v)`,
    `v = sigmoid(phi)`: every outer step trains afresh.

    A batch of training is `(x, y, number)`, the numbers below `examples`. Published with weights in [0, 1] whose sum is
    bounded, by projection; here their sum is fixed.

    Args:
        model: `[B, ...] -> [B, classes]`, logits.
        optimizer: must have a finite derivative.
        l2: strength of the penalty in training.
        rule: how the end of training moves with the weights.
        algorithm: further arguments of `meta_pretraining`. `differentiate=hypergrad.forward` gives the same hypergradient
            at a memory that does not grow with T, and a time that grows with the number of examples.
    """
    inner = Stage(with_l2(weighted_cross_entropy(whole(model)), l2), optimizer)
    meta = relative_example_weights(by_number(examples))
    return bilevel(model, inner, rule, cross_entropy(whole(model)), meta, meta_optimizer, restart=True, **algorithm)
