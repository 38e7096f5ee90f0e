"""Views of images: what an augmentation makes of them, differentiable in its parameters. `(context, x, key) -> x`."""

import functools
import itertools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.ndimage import map_coordinates

from metapt.checks import real
from metapt.types import Model, PyTree

View = Callable[[PyTree, Array, Array], Array]  # (context, x [B, ...], key) -> x [B, ...]


def rotate(image: Array, degrees: Array | float, order: Literal[1, 2] = 1) -> Array:
    """Turns `[H, W]` counter-clockwise about its centre; 0 where nothing was.

    Differentiable in image and angle: each output pixel is a weighted mean of input pixels, and the weights move with the
    angle (Jaderberg et al. 2015, "Spatial Transformer Networks", section 3.3).

    Args:
        order: of the B-spline by which pixels are weighted (Unser 1999). 1, bilinear, leaves quarter turns sharp and blurs
            between them, so that a loss prefers some angles whatever the image shows. 2 blurs nearly alike at every angle,
            0 degrees too, with a variance of 1/4 pixel^2, and its derivative in the angle has no jumps.

    Example:
        >>> rotate(jnp.array([[1.0, 2.0], [3.0, 4.0]]), 90.0).round(4).tolist()
        [[2.0, 4.0], [1.0, 3.0]]
    """
    if order not in (1, 2):
        raise ValueError(f"rotate: order={order} must be 1 (bilinear) or 2 (quadratic)")
    height, width = image.shape
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y = jnp.arange(height)[:, None] - (height - 1) / 2
    x = jnp.arange(width)[None, :] - (width - 1) / 2
    source = jnp.stack([cos * y + sin * x + (height - 1) / 2, cos * x - sin * y + (width - 1) / 2])
    if order == 1:
        return map_coordinates(image, list(source), order=1, mode="constant", cval=0.0)
    framed, taps = jnp.pad(image, 1), itertools.product(_taps(source[0], height), _taps(source[1], width))
    return sum((a * b * framed[row, column] for (a, row), (b, column) in taps), jnp.zeros_like(image))


def _taps(at: Array, size: int) -> list[tuple[Array, Array]]:
    """Along an axis: weights of the three pixels around each place, by the quadratic B-spline, and their places in the frame."""
    near = jnp.round(at)
    off = at - near  # in [-0.5, 0.5]
    weights = 0.5 * (0.5 - off) ** 2, 0.75 - off**2, 0.5 * (0.5 + off) ** 2
    return [(weight, jnp.clip(near.astype(int) + i, 0, size + 1)) for i, weight in enumerate(weights)]


def random_rotation(std: float, order: Literal[1, 2] = 1) -> View:
    """Each image by its own angle, drawn from N(context, std^2); context and `std` in degrees, x `[B, H, W]`.

    Args:
        order: of the interpolation, as in `rotate`.

    Source: Raghu et al. 2021, section 5.1 (their meta-parameter is the mean, with std = 1).

    Example:
        >>> view = random_rotation(std=0.0)
        >>> view(jnp.array(180.0), jnp.array([[[1.0, 2.0], [3.0, 4.0]]]), jax.random.key(0)).round(4).tolist()
        [[[4.0, 3.0], [2.0, 1.0]]]
    """
    real("random_rotation: std", std, least=0, why="degrees")

    def view(mean, x, key):
        turn = jax.vmap(functools.partial(rotate, order=order))
        return turn(x, mean + std * jax.random.normal(key, x.shape[:1], x.dtype))

    return view


def learned_view(network: Model) -> View:
    """`x + network([x, noise])`: an augmentation that is learned as a whole; the context are the network's parameters.

    Each example gets noise of its own, N(0, 1), of its own shape, behind its flattened numbers.

    Args:
        network: `[B, 2 D] -> [B, D]`, D numbers in an example. Start it near 0, so that views start near the images.

    Source: Lorraine et al. 2020, section 5.4 (there a U-Net).

    Example:
        >>> network = Model(lambda key: None, lambda params, inputs: params * inputs[:, :4])
        >>> learned_view(network)(2.0, jnp.ones((3, 2, 2)), jax.random.key(0))[0].tolist()
        [[3.0, 3.0], [3.0, 3.0]]
    """

    def view(params, x, key):
        flat = x.reshape(len(x), -1)
        noise = jax.random.normal(key, flat.shape, flat.dtype)
        return x + network.apply(params, jnp.concatenate([flat, noise], axis=1)).reshape(x.shape)

    return view
