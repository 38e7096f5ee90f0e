"""Linen encoders: arrays in, features out."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen
from jax import Array

from metapt.checks import whole
from metapt.models.adapters import from_linen
from metapt.types import Model


class _MLP(linen.Module):
    widths: Sequence[int]
    activation: Callable[[Array], Array]

    @linen.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for width in self.widths[:-1]:
            x = self.activation(linen.Dense(width)(x))
        return linen.Dense(self.widths[-1])(x)


def mlp(inputs: int, widths: Sequence[int], activation: Callable[[Array], Array] = linen.relu) -> Model:
    """A multi-layer perceptron, `activation` between layers and none after the last: `[B, ...] -> [B, widths[-1]]`.

    Args:
        inputs: numbers in one example, in whatever shape (an image is flattened).
        activation: smooth, for example `jnp.tanh`, where second derivatives are to tell something.

    Example:
        >>> import jax
        >>> model = mlp(64, (32, 8))
        >>> model.apply(model.init(jax.random.key(0)), jnp.zeros((5, 64))).shape
        (5, 8)
    """
    whole("mlp: inputs", inputs)
    if not widths:
        raise ValueError(f"mlp: widths={widths!r} must name at least one width")
    for width in widths:
        whole("mlp: a width", width)
    return from_linen(_MLP(tuple(widths), activation), jnp.zeros((1, inputs)))


def linear(inputs: int, outputs: int, zero: bool = False) -> Model:
    """A linear head, LeCun-initialised; with `zero` it starts at zero, so that its first predictions are uniform.

    Example:
        >>> import jax
        >>> head = linear(8, 10, zero=True)
        >>> float(abs(head.apply(head.init(jax.random.key(0)), jnp.ones((5, 8)))).max())
        0.0
    """
    kernel = linen.initializers.zeros if zero else linen.initializers.lecun_normal()
    return from_linen(linen.Dense(outputs, kernel_init=kernel), jnp.zeros((1, inputs)))


class _Projection(linen.Module):
    hidden: int
    outputs: int
    batch_norm: bool

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(self.hidden, use_bias=False)(x)
        if self.batch_norm:
            # Batch normalisation that keeps no averages: the head is dropped after pre-training.
            x = linen.LayerNorm(epsilon=1e-5, reduction_axes=0, feature_axes=-1)(x)
        return linen.Dense(self.outputs)(linen.relu(x))


def projection(features: int, hidden: int, outputs: int, batch_norm: bool = False) -> Model:
    """The head of contrastive pre-training, one hidden layer without bias: `[B, features] -> [B, outputs]`.

    Args:
        batch_norm: the hidden layer is normalised by the batch, which couples its examples.

    Source: Chen et al. 2020, section 2.1; with (256, 256, 128) it has the 98,432 parameters of Raghu et al. 2021. With
    batch normalisation: Grill et al. 2020, section 3.3.

    Example:
        >>> import jax
        >>> head = projection(32, 32, 16)
        >>> head.apply(head.init(jax.random.key(0)), jnp.ones((5, 32))).shape
        (5, 16)
    """
    for name, size in (("features", features), ("hidden", hidden), ("outputs", outputs)):
        whole(f"projection: {name}", size)
    return from_linen(_Projection(hidden, outputs, batch_norm), jnp.zeros((1, features)))
