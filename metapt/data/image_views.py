"""Views of images `[B, H, W, C]` in [0, 1], C 1 or 3: crop, flip, colour, blur. `(context, x, key) -> x`.

The context is the strength s of the colour jitter, a number, in which it is differentiable; the others take no notice of it.
Resizing and blurring are products with matrices of weights, `[H, H]` and `[W, W]`: no convolution, and one program for all crops.
"""

import jax
import jax.numpy as jnp
from jax import Array

from metapt.checks import axes, real
from metapt.data.signal_views import in_turn
from metapt.data.views import View
from metapt.types import PyTree

_LUMA = 0.2989, 0.5870, 0.1140


def simclr_views(smallest: float = 0.08, flips: float = 0.5) -> View:
    """SimCLR's: a crop, resized; a flip; jitter at 0.8; grey at 0.2; blur at 0.5. Context: the strength s of the jitter.

    Args:
        smallest: share of the image that a crop has at least.
        flips: probability of a flip; 0 where left and right mean something, as in digits.

    Source: Chen et al. 2020, appendix A; s is 1 there on ImageNet, 0.5 on CIFAR-10.

    Example:
        >>> jax.eval_shape(simclr_views(), 0.5, jnp.ones((5, 32, 32, 3)), jax.random.key(0)).shape
        (5, 32, 32, 3)
    """
    return in_turn(
        random_crop(smallest),
        sometimes(flips, flip),
        sometimes(0.8, color_jitter()),
        sometimes(0.2, gray),
        sometimes(0.5, random_blur()),
    )


def sometimes(probability: float, view: View) -> View:
    """`view` of each image with this probability, else the image as it is.

    Example:
        >>> seen = sometimes(0.25, lambda context, x, key: 0 * x)(None, jnp.ones((1000, 1, 1, 1)), jax.random.key(0))
        >>> bool(abs(seen.mean() - 0.75) < 0.05)
        True
    """
    if not 0 <= real("sometimes: probability", probability) <= 1:
        raise ValueError(f"sometimes: probability={probability} must be in [0, 1]")

    def either(context: PyTree, x: Array, key: Array) -> Array:
        coin_key, view_key = jax.random.split(key)
        coin = jax.random.bernoulli(coin_key, probability, (len(x), *[1] * (x.ndim - 1)))
        return jnp.where(coin, view(context, x, view_key), x)

    return either


def of_another(view: View) -> View:
    """`view` of the image before, in the batch: pairs of views that have nothing to do with each other, for a control.

    Example:
        >>> of_another(lambda context, x, key: x)(None, jnp.arange(3), None).tolist()
        [2, 0, 1]
    """
    return lambda context, x, key: view(context, jnp.roll(x, 1, axis=0), key)


def random_crop(smallest: float = 0.08, aspect: float = 4 / 3) -> View:
    """A random part of each image, resized to the whole: area uniform from `smallest` to 1, width / height within `aspect`.

    The logarithm of width / height is uniform; a part that would not fit is cut, and one below a pixel widened, to fit.

    Args:
        aspect: the largest ratio of the sides, at least 1.

    Source: Chen et al. 2020, appendix A, whose resizing is bicubic.

    Example:
        >>> whole = random_crop(smallest=1.0, aspect=1.0)
        >>> jax.jit(whole)(None, jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1), jax.random.key(0)).ravel().tolist()
        [1.0, 2.0]
    """
    real("random_crop: smallest", smallest, above=0)
    if smallest > 1:
        raise ValueError(f"random_crop: smallest={smallest} must be at most 1, the whole image")
    real("random_crop: aspect", aspect, least=1)

    def view(context: PyTree, x: Array, key: Array) -> Array:
        area_key, aspect_key, *place_keys = jax.random.split(key, 4)
        area = jax.random.uniform(area_key, (len(x),), x.dtype, smallest, 1.0)
        ratio = aspect ** jax.random.uniform(aspect_key, (len(x),), x.dtype, -1.0, 1.0)
        sizes = [
            jnp.clip(full * jnp.sqrt(share), 1.0, full)
            for full, share in zip(x.shape[1:3], (area / ratio, area * ratio), strict=True)
        ]
        starts = [
            (full - size) * jax.random.uniform(place_key, (len(x),), x.dtype)
            for full, size, place_key in zip(x.shape[1:3], sizes, place_keys, strict=True)
        ]
        return jax.vmap(crop)(x, *starts, *sizes)

    return view


def crop(image: Array, top: Array | float, left: Array | float, height: Array | float, width: Array | float) -> Array:
    """A part of `[H, W, C]`, in pixels and fractions of them, resized to `[H, W, C]`: linear, its border repeated beyond.

    Example:
        >>> image = jnp.arange(4.0).reshape(2, 2, 1)
        >>> crop(image, 0, 0, 2, 2).ravel().tolist(), crop(image, 1, 0, 1, 2).ravel().tolist()
        ([0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 2.0, 3.0])
    """
    axes("crop: image", image, 3)

    def weights(full: int, start: Array | float, size: Array | float) -> Array:
        pixels = jnp.arange(full, dtype=image.dtype)
        at = jnp.clip(start + (pixels + 0.5) * (size / full) - 0.5, start, start + size - 1)
        return jnp.maximum(0, 1 - jnp.abs(at[:, None] - pixels))

    return _weighted(weights(image.shape[0], top, height), image, weights(image.shape[1], left, width))


def flip(context: PyTree, x: Array, key: Array) -> Array:
    """Left becomes right.

    Example:
        >>> flip(None, jnp.array([[[[1.0], [2.0]]]]), None).ravel().tolist()
        [2.0, 1.0]
    """
    axes("flip: x", x, 4)
    return x[:, :, ::-1]


def gray(context: PyTree, x: Array, key: Array) -> Array:
    """All channels are the luma 0.2989 R + 0.587 G + 0.114 B; images of one channel stay as they are.

    Example:
        >>> (1000 * gray(None, jnp.array([[[[1.0, 0.0, 0.0]]]]), None)).round().ravel().tolist()
        [299.0, 299.0, 299.0]
    """
    if _channels(x) == 1:
        return x
    return jnp.broadcast_to(jnp.einsum("...c,c->...", x, jnp.array(_LUMA, x.dtype))[..., None], x.shape)


def color_jitter(brightness: float = 0.8, contrast: float = 0.8, saturation: float = 0.8, hue: float = 0.2) -> View:
    """Each image brighter, of another contrast, saturation and hue, in random order, kept in [0, 1] after each.

    With s the context and u ~ U(-1, 1), one an image and change:

        brightness  x <- f x,                 f = max(0, 1 + s brightness u)
        contrast    x <- m + f (x - m),       m the mean of a channel
        saturation  S <- f S                  of hue, saturation and value
        hue         H <- H + s hue u          in turns

    The last two need three channels; images of one are left as they are.

    Source: Chen et al. 2020, appendix A, and their code.

    Example:
        >>> x = jnp.linspace(0.0, 1.0, 5).reshape(5, 1, 1, 1)
        >>> jax.jit(color_jitter())(0.0, x, jax.random.key(1)).ravel().tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    for name, amount in amounts.items():
        real(f"color_jitter: {name}", amount, least=0)

    def view(context: PyTree, x: Array, key: Array) -> Array:
        draw_key, order_key = jax.random.split(key)
        changes = (_brighten, _contrast, _saturate, _turn_hue)[: 2 if _channels(x) == 1 else 4]
        u = jax.random.uniform(draw_key, (len(x), len(changes)), x.dtype, -1.0, 1.0)
        by = u * jnp.asarray(context, x.dtype) * jnp.array(list(amounts.values())[: len(changes)], x.dtype)
        order = jnp.argsort(jax.random.uniform(order_key, by.shape), axis=1)

        def one(image, by, order):
            for place in range(len(changes)):
                image = jnp.clip(jax.lax.switch(order[place], changes, image, by[order[place]]), 0.0, 1.0)
            return image

        return jax.vmap(one)(x, by, order)

    return view


def random_blur(least: float = 0.1, most: float = 2.0) -> View:
    """`blur` of a width sigma ~ U(least, most), one an image, in pixels.

    Source: Chen et al. 2020, appendix A: sides of the window are a tenth of the image's, so that below 20 pixels nothing happens.

    Example:
        >>> x = jax.random.uniform(jax.random.key(0), (5, 32, 32, 3))
        >>> blurred = jax.jit(random_blur())(None, x, jax.random.key(1))
        >>> bool((blurred.std((1, 2)) < x.std((1, 2))).all())
        True
    """
    real("random_blur: least", least, above=0)
    real("random_blur: most", most, least=least)
    return lambda context, x, key: jax.vmap(blur)(x, jax.random.uniform(key, x.shape[:1], x.dtype, least, most))


def blur(image: Array, sigma: Array | float) -> Array:
    """Gaussian means over windows of `2 (H // 20) + 1` pixels, `[H, W, C]`; the border is repeated beyond.

    Example:
        >>> blur(jnp.eye(21)[..., None], 1e-3)[0, :3, 0].tolist()  # too narrow a window to reach a neighbour
        [1.0, 0.0, 0.0]
    """
    radius = image.shape[0] // 20
    if not radius:
        return image
    offsets = jnp.arange(-radius, radius + 1)
    window = jax.nn.softmax(-(offsets**2) / (2 * jnp.asarray(sigma, image.dtype) ** 2))

    def weights(full: int) -> Array:
        seen = jnp.clip(jnp.arange(full)[:, None] + offsets, 0, full - 1)
        return jnp.einsum("iko,o->ik", jax.nn.one_hot(seen, full, axis=1, dtype=image.dtype), window)

    return _weighted(weights(image.shape[0]), image, weights(image.shape[1]))


def _weighted(rows: Array, image: Array, columns: Array) -> Array:
    return jnp.einsum("hy,yxc,wx->hwc", rows, image, columns)


def _channels(x: Array) -> int:
    if x.ndim != 4 or x.shape[3] not in (1, 3):
        raise ValueError(f"views of images: x is {list(x.shape)}, but must be [B, H, W, C] with C 1 or 3")
    return x.shape[3]


def _brighten(image: Array, by: Array) -> Array:
    return image * jnp.maximum(0, 1 + by)


def _contrast(image: Array, by: Array) -> Array:
    mean = image.mean(axis=(0, 1))
    return mean + jnp.maximum(0, 1 + by) * (image - mean)


def _saturate(image: Array, by: Array) -> Array:
    hue, saturation, value = _hsv(image)
    return _rgb(hue, jnp.minimum(saturation * jnp.maximum(0, 1 + by), 1), value)


def _turn_hue(image: Array, by: Array) -> Array:
    hue, saturation, value = _hsv(image)
    return _rgb(hue + by, saturation, value)


def _hsv(image: Array) -> tuple[Array, Array, Array]:
    """Hue in turns, saturation and value, `[H, W]` each; where nothing has a hue, derivatives are 0."""
    value, chroma = image.max(axis=-1), image.max(axis=-1) - image.min(axis=-1)
    r, g, b = jnp.moveaxis(image, -1, 0)
    whole = jnp.where(chroma > 0, chroma, 1)
    sixth = jnp.where(value == r, (g - b) / whole, jnp.where(value == g, 2 + (b - r) / whole, 4 + (r - g) / whole))
    return sixth / 6, chroma / jnp.where(value > 0, value, 1), value


def _rgb(hue: Array, saturation: Array, value: Array) -> Array:
    sixths = (jnp.array([5, 3, 1], hue.dtype) + 6 * hue[..., None]) % 6
    return value[..., None] * (1 - saturation[..., None] * jnp.clip(jnp.minimum(sixths, 4 - sixths), 0, 1))
