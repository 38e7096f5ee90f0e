"""A small network of images, `[B, H, W, C]`, whose convolutions are matrix products."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen
from jax import Array

from metapt.checks import whole
from metapt.models.adapters import from_linen
from metapt.types import Model


def convnet(size: int, channels: int, widths: Sequence[int] = (16, 32), features: int = 64) -> Model:
    """3 x 3 convolutions with ReLU, all but the first halving the sides; a linear layer: `[B, H, W, C] -> [B, features]`.

    A row of the product is a window of 3 x 3 pixels: on a CPU that loops and maps over seeds as any dense layer does, which
    XLA's own convolution does not (`stages.loop`).

    Args:
        size: pixels of a side, H and W.
        channels: C.
        widths: channels after each convolution.

    Raises:
        ValueError: if a number is below 1, or there is no width.

    Example:
        >>> import jax
        >>> model = convnet(size=8, channels=1)
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 8, 8, 1))).shape
        (5, 64)
    """
    for name, number in (("size", size), ("channels", channels), ("features", features)):
        whole(f"convnet: {name}", number)
    if not widths:
        raise ValueError(f"convnet: widths={widths!r} must name at least one width")
    for width in widths:
        whole("convnet: a width", width)
    return from_linen(_ConvNet(tuple(widths), features), jnp.zeros((1, size, size, channels)))


class _ConvNet(linen.Module):
    widths: Sequence[int]
    features: int

    @linen.compact
    def __call__(self, x: Array) -> Array:
        for layer, width in enumerate(self.widths):
            x = linen.relu(linen.Dense(width)(_windows(x, stride=2 if layer else 1)))
        return linen.Dense(self.features)(x.reshape(x.shape[0], -1))


def _windows(x: Array, stride: int) -> Array:
    """What every output of a 3 x 3 convolution sees, one pixel of zeros around: `[B, H, W, C] -> [B, H', W', 9 C]`."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    pieces = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(pieces, axis=-1)
