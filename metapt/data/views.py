"""Views of images: what an augmentation makes of them, differentiable in its parameters. `(context, x, key) -> x`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.ndimage import map_coordinates

from metapt.checks import real
from metapt.types import Model, PyTree

View = Callable[[PyTree, Array, Array], Array]  # (context, x [B, ...], key) -> x [B, ...]


def rotate(image: Array, degrees: Array | float) -> Array:
    """Turns `[H, W]` counter-clockwise about its centre; bilinear, and 0 where nothing was.

    Differentiable in both arguments: each output pixel is a weighted mean of four input pixels, and the weights move
    with the angle (Jaderberg et al. 2015, "Spatial Transformer Networks", section 3.3).

    Example:
        >>> rotate(jnp.array([[1.0, 2.0], [3.0, 4.0]]), 90.0).round(4).tolist()
        [[2.0, 4.0], [1.0, 3.0]]
    """
    height, width = image.shape
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y = jnp.arange(height)[:, None] - (height - 1) / 2
    x = jnp.arange(width)[None, :] - (width - 1) / 2
    source = jnp.stack([cos * y + sin * x + (height - 1) / 2, cos * x - sin * y + (width - 1) / 2])
    return map_coordinates(image, list(source), order=1, mode="constant", cval=0.0)


def random_rotation(std: float) -> View:
    """Each image by its own angle, drawn from N(context, std^2); context and `std` in degrees, x `[B, H, W]`.

    Source: Raghu et al. 2021, section 5.1 (their meta-parameter is the mean, with std = 1).

    Example:
        >>> view = random_rotation(std=0.0)
        >>> view(jnp.array(180.0), jnp.array([[[1.0, 2.0], [3.0, 4.0]]]), jax.random.key(0)).round(4).tolist()
        [[[4.0, 3.0], [2.0, 1.0]]]
    """
    real("random_rotation: std", std, least=0, why="degrees")

    def view(mean, x, key):
        return jax.vmap(rotate)(x, mean + std * jax.random.normal(key, x.shape[:1], x.dtype))

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
