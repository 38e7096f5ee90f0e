"""As many hyperparameters of one training run as it has parameters or pixels, learned while it goes on."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from metapt.data import learned_view
from metapt.hypergrad import implicit
from metapt.meta import distilled, initialization, penalties
from metapt.objectives import cross_entropy, on_context, on_view, whole, with_l2, with_penalties
from metapt.recipes.method import Bilevel, Method, bilevel
from metapt.solvers import neumann
from metapt.types import Meta, Model, Objective, Rule, Stage

METHOD = Method(
    name="ift_hyperparameters",
    summary="a penalty for each parameter, training examples, or an augmentation network, learned by implicit differentiation",
    citation="Lorraine, Vicol, Duvenaud. Optimizing Millions of Hyperparameters by Implicit Differentiation. AISTATS 2020",
    slots=(
        "objective: penalised, on learned examples or views",
        "meta: millions",
        "rule: implicit",
        "update: gradient",
    ),
)

Learned = tuple[Objective, Meta]  # what training minimises, and what of it is learned


def ift_hyperparameters(
    model: Model,
    learned: Learned,
    optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    rule: Rule = lambda stage: implicit(stage, neumann(terms=20)),
    restart: bool = False,
    **algorithm: Any,
) -> Bilevel:
    """`dL_V/dphi = - (dL_V/dw) H^-1 (d2L_T/dw dphi)`, P training steps before each.

    Args:
        model: `[B, ...] -> [B, classes]`, logits; smooth.
        learned: `weight_decay(model)`, `distilled_data(model, ...)`, `augmentation(model, ...)`, or an objective and a meta of
            your own.
        optimizer: of training, any.
        rule: published: the Neumann series of few terms, with the learning rate as its step.
        restart: whether training starts afresh every time, as in `method.bilevel`; else it goes on.
        algorithm: further arguments of `meta_pretraining`.
    """
    objective, meta = learned
    inner = Stage(objective, optimizer)
    return bilevel(model, inner, rule, cross_entropy(whole(model)), meta, meta_optimizer, restart, **algorithm)


def weight_decay(model: Model, start: float, most: float = 1.0, shared: bool = False) -> Learned:
    """A penalty for every parameter, or one `shared` by all; each `start` at first and below `most`."""
    like = (lambda key: jnp.zeros(())) if shared else model.init
    return with_penalties(cross_entropy(whole(model))), penalties(like, start, most)


def distilled_data(model: Model, inputs: tuple[int, ...], y: np.ndarray | Array, l2: float) -> Learned:
    """The training examples, of which there are as many as labels `y`. Without a penalty training would not come to rest."""
    return on_context(with_l2(cross_entropy(whole(model)), l2)), distilled(inputs, y)


def augmentation(model: Model, network: Model, l2: float) -> Learned:
    """A network that draws views of the training examples: `[B, 2 D] -> [B, D]`, as in `data.learned_view`."""
    return with_l2(on_view(cross_entropy(whole(model)), learned_view(network)), l2), initialization(network)
