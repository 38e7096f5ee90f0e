"""Weights of tasks or examples. All start at 1, so that learning starts at plain pre-training."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from metapt.checks import real, whole
from metapt.types import Meta, Model


def sigmoid_weights(n: int) -> Meta:
    """W = 2 sigmoid(phi) in (0, 2), each by itself: all can shrink at once. Source: Raghu et al. 2021, their code.

    Example:
        >>> meta = sigmoid_weights(2)
        >>> meta.constrain(meta.init(jax.random.key(0))).tolist()
        [1.0, 1.0]
    """
    return _weights(n, lambda phi: 2.0 * jax.nn.sigmoid(phi))


def softmax_weights(n: int, total: float | None = None) -> Meta:
    """W = total * softmax(phi), `total` (default n) fixed: what one gains another loses, and the learning rate keeps its meaning.

    Example:
        >>> meta = softmax_weights(4)
        >>> meta.constrain(jnp.array([0.0, 0.0, 0.0, jnp.log(5.0)])).round(3).tolist()
        [0.5, 0.5, 0.5, 2.5]
    """
    whole("n", n, why="the number of weights")
    size = n if total is None else total
    real("softmax_weights: total", size, above=0, why="the sum of the weights")
    return _weights(n, lambda phi: size * jax.nn.softmax(phi))


def softplus_weights(n: int) -> Meta:
    """W = softplus(phi) / log 2, above 0 without an upper bound.

    Example:
        >>> meta = softplus_weights(2)
        >>> meta.constrain(meta.init(jax.random.key(0))).tolist()
        [1.0, 1.0]
    """
    return _weights(n, lambda phi: jax.nn.softplus(phi) / jnp.log(2.0))


def grouped(weights: Meta, group: Sequence[int] | np.ndarray) -> Meta:
    """One meta-parameter for all weights of a group, instead of one for each: `group` `[n]` says whose each weight is.

    Example:
        >>> meta = grouped(softmax_weights(4), group=[0, 0, 0, 1])
        >>> meta.constrain(meta.init(jax.random.key(0)).at[1].set(jnp.log(5.0))).round(3).tolist()
        [0.5, 0.5, 0.5, 2.5]
    """
    of = np.asarray(group)
    if of.ndim != 1 or not np.issubdtype(of.dtype, np.integer) or not len(of) or of.min() < 0:
        raise ValueError(f"grouped: group is {of.dtype} {list(of.shape)}, but must be integers from 0 on, one a weight")
    return Meta(lambda key: jnp.zeros(of.max() + 1), lambda phi: weights.constrain(phi[of]))


def example_weights(network: Model, bound: float = 2.0) -> Meta:
    """A network that weighs every example: the constrained value is a function, batch -> weights `[B]` in (0, bound).

    Args:
        network: one logit an example, `apply(params, batch) -> [B]` or `[B, 1]`.
        bound: the weight of an example can't exceed it.

    Source: Raghu et al. 2021, section 5.1; Shu et al. 2019, "Meta-Weight-Net", section 3.

    Example:
        >>> network = Model(init=lambda key: jnp.zeros(3), apply=lambda params, x: x @ params)
        >>> meta = example_weights(network)
        >>> meta.constrain(meta.init(jax.random.key(0)))(jnp.ones((2, 3))).tolist()
        [1.0, 1.0]
    """
    real("example_weights: bound", bound, above=0, why="the largest possible weight")

    def weigh(params, batch) -> Array:
        logits = network.apply(params, batch)
        return bound * jax.nn.sigmoid(logits.reshape(logits.shape[0]))

    # A Partial is both a function and a pytree of its parameters, so it can be a context.
    return Meta(network.init, lambda params: Partial(weigh, params))


def relative_example_weights(network: Model, power: float = 1.0) -> Meta:
    """A network that weighs the examples of a batch against each other: `v = sigmoid(logits)^power`, `w = v / mean(v)`.

    Their mean is 1, so the loss keeps its scale whatever the network says; the mean couples the batch. Further arguments of
    the constrained value (a teacher: `objectives.with_teacher`) go to the network.

    Args:
        network: one logit an example, `apply(params, batch, *rest) -> [B]` or `[B, 1]`.
        power: above 1, weights of doubtful examples are nearer to 0, and fewer examples carry the loss.

    Source: Shu et al. 2019, "Meta-Weight-Net", equation 9 (where the power is 1).

    Example:
        >>> network = Model(init=lambda key: jnp.zeros(()), apply=lambda params, x: params * x)
        >>> weights = relative_example_weights(network).constrain(1.0)(jnp.array([0.0, 100.0]))
        >>> [round(float(weight), 4) for weight in weights]
        [0.6667, 1.3333]
    """
    real("relative_example_weights: power", power, above=0)

    def weigh(params, batch, *rest) -> Array:
        logits = network.apply(params, batch, *rest)
        values = jax.nn.sigmoid(logits.reshape(logits.shape[0])) ** power
        return values / values.mean()

    return Meta(network.init, lambda params: Partial(weigh, params))


def _weights(n: int, constrain) -> Meta:
    whole("n", n, why="the number of weights")
    return Meta(lambda key: jnp.zeros(n), constrain)
