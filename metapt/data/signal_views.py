"""Views of signals `[B, T, C]`, leads last: masks, noise, amplitudes, time warps. `(context, x, key) -> x`.

Two are fixed (`crop_mask`, `scaled_noise`); the others are differentiable in their context, a number or one number a
signal, each by writing the random draw as a function of the context and of noise that does not depend on it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.ndimage import gaussian_filter1d

from metapt.checks import axes, real
from metapt.data.views import View
from metapt.types import PyTree

COARSE = 4  # samples of the signal for one of the field that is integrated
SQUARINGS = 5
# Mirrored at its ends, as in the published code: nearly flat.
SMOOTHING = gaussian_filter1d(np.eye(25)[12], sigma=12.0)


def in_turn(*views: View, **named: View) -> View:
    """One view after the other, with keys of their own; those with a name come last and see `context[name]`.

    Example:
        >>> add, times = (lambda context, x, key: x + context), (lambda context, x, key: x * context["gain"])
        >>> in_turn(times, shift=add)({"gain": 2.0, "shift": 1.0}, 10.0, jax.random.key(0))
        21.0
    """

    def view(context: PyTree, x: Array, key: Array) -> Array:
        keys = iter(jax.random.split(key, len(views) + len(named)))
        for one in views:
            x = one(context, x, next(keys))
        for name, one in named.items():
            x = one(context[name], x, next(keys))
        return x

    return view


def by_input(view: View) -> View:
    """`view(context(x), x, key)`: the context is a function of the signals, for example `meta.warp_strength`.

    Example:
        >>> by_input(lambda context, x, key: x + context)(lambda x: 2.0 * x, 10.0, None)
        30.0
    """
    return lambda context, x, key: view(context(x), x, key)


def crop_mask(context: PyTree, x: Array, key: Array) -> Array:
    """Every lead is 0 along a random stretch of at most half of the signal; the context plays no part.

    The length is `randint(T) // 2`, the start `max(0, randint(-length, T))`; a stretch may end outside.

    Source: Raghu et al. 2021, section 5.2, and their code.

    Example:
        >>> 0 < (crop_mask(None, jnp.ones((1, 100, 50)), jax.random.key(0)) == 0).mean() < 0.5
        Array(True, dtype=bool)
    """
    length_key, start_key = jax.random.split(key)
    batch, time, leads = x.shape
    length = jax.random.randint(length_key, (batch, 1, leads), 0, time) // 2
    start = jnp.maximum(0, jax.random.randint(start_key, length.shape, -length, time))
    t = jnp.arange(time)[None, :, None]
    return jnp.where((start <= t) & (t < start + length), 0.0, x)


def random_mask(context: PyTree, x: Array, key: Array) -> Array:
    """As `crop_mask`, of a length uniform in [0, context T]; context: a share of the signal, 0.5 for that of `crop_mask`.

    Differentiable as a rotation is: start and length are real numbers, and a sample is kept to the extent that the
    stretch leaves it uncovered, so that the derivative sits in the samples at the ends.

    Example:
        >>> kept = random_mask(0.2, jnp.ones((1000, 50, 1)), jax.random.key(0)).mean()
        >>> bool(abs(kept - 0.9) < 0.02)
        True
    """
    length_key, start_key = jax.random.split(key)
    batch, time, leads = x.shape
    length = _each(context) * time * jax.random.uniform(length_key, (batch, 1, leads), x.dtype)
    start = jnp.maximum(0.0, (time + length) * jax.random.uniform(start_key, length.shape, x.dtype) - length)
    t = jnp.arange(time, dtype=x.dtype)[None, :, None]
    covered = jnp.clip(jnp.minimum(t + 1, start + length) - jnp.maximum(t, start), 0.0, 1.0)
    return x * (1 - covered)


def scaled_noise(context: PyTree, x: Array, key: Array) -> Array:
    """`random_noise` of the scale 0.1; the context plays no part. Source: Raghu et al. 2021, section 5.2, and their code.

    Example:
        >>> scaled_noise(None, jnp.ones((1, 4, 1)), jax.random.key(0)).ravel().tolist()  # a flat lead stays flat
        [1.0, 1.0, 1.0, 1.0]
    """
    return random_noise(0.1, x, key)


def random_noise(context: PyTree, x: Array, key: Array) -> Array:
    """Adds `u s n`: u ~ U(0, context) one a signal, s the lead's standard deviation over time, n ~ N(0, 1).

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (1000, 50, 1))
        >>> added = random_noise(0.3, x, jax.random.key(1)) - x
        >>> bool(abs(added.std() - 0.3 / 3**0.5) < 0.01)
        True
    """
    scale_key, noise_key = jax.random.split(key)
    scale = _each(context) * jax.random.uniform(scale_key, (len(x), 1, 1), x.dtype)
    variance = x.var(axis=1, keepdims=True)
    flat = variance == 0  # where the derivative of the root is infinite
    spread = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, variance)))
    return x + scale * spread * jax.random.normal(noise_key, x.shape, x.dtype)


def random_amplitude(context: PyTree, x: Array, key: Array) -> Array:
    """Every lead times `exp(context n)`, n ~ N(0, 1).

    Example:
        >>> random_amplitude(0.0, jnp.ones((1, 3, 1)), jax.random.key(0)).ravel().tolist()
        [1.0, 1.0, 1.0]
    """
    axes("random_amplitude: x", x, 3)
    return x * jnp.exp(_each(context) * jax.random.normal(key, (len(x), 1, x.shape[2]), x.dtype))


def lead_dropout(temperature: float = 0.1) -> View:
    """Every lead times `sigmoid((logit(1 - context) + logistic noise) / temperature)`: about 0 with probability context, else 1.

    Relaxed: a factor is below 1/2 with exactly that probability, and between 0.1 and 0.9 the less often the lower the
    temperature, at which the derivative is the noisier.

    Args:
        temperature: above 0.

    Source: Maddison et al. 2017, "The Concrete Distribution", equation 10.

    Example:
        >>> kept = lead_dropout()(0.25, jnp.ones((1000, 1, 12)), jax.random.key(0))
        >>> bool(abs((kept < 0.5).mean() - 0.25) < 0.02)
        True
    """
    real("lead_dropout: temperature", temperature, above=0)

    def view(share: PyTree, x: Array, key: Array) -> Array:
        odds = jnp.log1p(-_each(share)) - jnp.log(_each(share))
        noise = jax.random.logistic(key, (len(x), 1, x.shape[2]), x.dtype)
        return x * jax.nn.sigmoid((odds + noise) / temperature)

    return view


def time_warp(context: PyTree, x: Array, key: Array) -> Array:
    """Each signal along a random smooth field of its own, `x(t + field(t))`, the same for all leads; 0 outside.

    Args:
        context: standard deviation of the white noise that the field is made of (`displacement`), in samples, [] or `[B]`.

    Raises:
        ValueError: if the signal is shorter than `COARSE` samples.

    Source: Raghu et al. 2021, section 5.2, and their code.

    Example:
        >>> x = jnp.arange(8.0).reshape(1, 8, 1)
        >>> bool((time_warp(0.0, x, jax.random.key(0)) == x).all())
        True
    """
    batch, time, _ = x.shape
    if time < COARSE:
        raise ValueError(f"time_warp: {time} samples are too few: give at least {COARSE}")
    noise = _each(context)[..., 0] * jax.random.normal(key, (batch, time), x.dtype)
    t = jnp.arange(time, dtype=x.dtype)
    return jax.vmap(lambda signal, noise: resample(signal, t + displacement(noise)))(x, noise)


def displacement(noise: Array) -> Array:
    """A smooth field from white noise, both in samples, `[T] -> [T]`: coarser, integrated, finer, smoothed.

    Noise of a standard deviation above about 100 makes fields that leave the order of the samples and the signal itself.

    Example:
        >>> displacement(jnp.full(80, 2.0))[30:34].round(4).tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    time, half = len(noise), len(SMOOTHING) // 2
    coarse = jax.image.resize(noise, (time // COARSE,), "linear", antialias=False) / COARSE
    fine = jax.image.resize(COARSE * integrate(coarse), (time,), "linear", antialias=False)
    padded = jnp.pad(fine, half)
    return sum((weight * padded[i : i + time] for i, weight in enumerate(SMOOTHING.tolist())), jnp.zeros_like(fine))


def integrate(velocity: Array) -> Array:
    """Where one unit of time along a velocity leads, less the start, `[T] -> [T]`: scaling and squaring.

    `d <- v / 2^5`, then five times `d(t) <- d(t) + d(t + d(t))`, with `d = 0` outside.

    Source: Arsigny et al. 2006, "A Log-Euclidean Framework for Statistics on Diffeomorphisms", section 3.2.

    Example:
        >>> integrate(jnp.full(9, 2.0))[:4].tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    t = jnp.arange(len(velocity), dtype=velocity.dtype)
    square = lambda moved, _: (moved + resample(moved, t + moved), None)
    return jax.lax.scan(square, velocity / 2**SQUARINGS, length=SQUARINGS)[0]


def resample(x: Array, positions: Array) -> Array:
    """`x [T, ...]` read at `positions [N]`, in samples: linear between samples, 0 outside, over one sample at the ends.

    Example:
        >>> resample(jnp.array([1.0, 3.0]), jnp.array([-9.0, -0.5, 0.5, 1.0, 1.5, 9.0])).tolist()
        [0.0, 0.5, 2.0, 3.0, 1.5, 0.0]
    """
    padded = jnp.pad(x, [(1, 1)] + [(0, 0)] * (x.ndim - 1))
    at = jnp.clip(positions + 1, 0, len(x) + 1)
    left = jnp.minimum(at.astype(int), len(x))
    share = (at - left).reshape(-1, *[1] * (x.ndim - 1))
    return (1 - share) * padded[left] + share * padded[left + 1]


def _each(context: PyTree) -> Array:
    """A number, or one a signal, as `[1 or B, 1, 1]`."""
    return jnp.reshape(jnp.asarray(context), (-1, 1, 1))
