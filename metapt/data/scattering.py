"""Wavelet scattering of images: fixed features on which a single trained layer errs little, from few examples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from metapt.checks import axes, whole

BATCH = 64  # images at once


def scattering(images: jax.Array | np.ndarray, scales: int, orientations: int = 8) -> jax.Array:
    """First and second order wavelet scattering of every image: `[N, C, H / 2^scales, W / 2^scales]`.

    C = 1 + J L + L^2 J (J - 1) / 2 channels, for J scales and L orientations: x * phi, then |x * psi_jl| * phi, scale by
    scale, each followed by ||x * psi_jl| * psi_km| * phi for k > j. The psi are Morlet wavelets, whose mean is 0, phi is a
    Gaussian, and * is the periodic convolution: frame images by a margin of the background. Places are the middles of cells
    of 2^J by 2^J pixels. Shifts of less than a cell change these numbers little, and small deformations too, while strokes
    in different directions stay apart.

    Args:
        images: `[N, H, W]`; H and W are multiples of 2^scales.
        scales: J, at least 1.
        orientations: L, over the half circle.

    Source: Bruna and Mallat 2013, "Invariant Scattering Convolution Networks"; bandwidths and shape of the wavelets, and how
    coarsely each convolution is sampled: Andreux et al. 2020, "Kymatio: Scattering Transforms in Python".

    Example:
        >>> bar = jnp.zeros((1, 16, 16)).at[:, :, 7:9].set(1.0)  # upright: what changes, changes from left to right
        >>> features = scattering(bar, scales=2, orientations=2)
        >>> features.shape  # 1 + 2 * 2 + 4 * 2 * 1 / 2 channels
        (1, 9, 4, 4)
        >>> [round(float(number), 2) for number in features[0, 1:3, 1, 1]]  # the finest scale, both directions
        [0.18, 0.0]
    """
    whole("scattering: scales", scales)
    whole("scattering: orientations", orientations)
    axes("scattering: images", images, 3)
    if any(side % 2**scales for side in images.shape[1:]):
        raise ValueError(
            f"scattering: images of {images.shape[1]} by {images.shape[2]} pixels must have sides that are multiples of "
            f"2^scales={2**scales}: frame them by a margin of the background"
        )
    return _scattering(jnp.asarray(images, jnp.promote_types(images.dtype, jnp.float32)), scales, orientations)


@partial(jax.jit, static_argnames=("scales", "orientations"))
def _scattering(images, scales: int, orientations: int):
    step, shape = 2**scales, images.shape[1:]
    wavelets = {  # of scale j, as a signal that is sampled at every 2^i-th pixel sees them
        (i, j): jnp.asarray(_wavelets(shape, 2**i, 2**j, orientations)) for j in range(scales) for i in range(max(j, 1))
    }
    smooth = [jnp.asarray(_gaussian(shape, 2**i, 0.8 * step / 2)) for i in range(scales)]

    def average(signal, i):
        return jnp.fft.ifft2(_sampled(signal * smooth[i], step >> i)).real.reshape(
            -1, *(side // step for side in shape)
        )

    def modulus(signal, i, j):
        """|signal * psi_j| at every 2^j-th pixel, as its Fourier transform: every orientation along a new axis."""
        return jnp.fft.fft2(jnp.abs(jnp.fft.ifft2(_sampled(signal[..., None, :, :] * wavelets[i, j], 2 ** (j - i)))))

    def one(image):
        x = jnp.fft.fft2(jnp.roll(image, (-step // 2, -step // 2), (0, 1)))
        channels = [average(x, 0)]
        for j in range(scales):
            first = modulus(x, 0, j)
            channels.append(average(first, j))
            channels.extend(average(modulus(first, j, k), k) for k in range(j + 1, scales))
        return jnp.concatenate(channels).astype(images.dtype)

    return jax.lax.map(one, images, batch_size=BATCH)


def _sampled(transform, every: int):
    """The Fourier transform of every `every`-th sample: the mean of the frequencies that these can't tell apart."""
    *batch, height, width = transform.shape
    return transform.reshape(*batch, every, height // every, every, width // every).mean((-4, -2))


def _gaussian(shape, every: int, width: float, slant: float = 1.0, angle: float = 0.0, at: float = 0.0) -> np.ndarray:
    """exp(-(u^2 + slant^2 v^2) / (2 width^2)) of sum 1, turned by `angle` and modulated to frequency `at`; transformed."""
    total = np.zeros([side // every for side in shape])
    period = 2 * np.pi / every
    for alias in np.ndindex(5, 5):
        y, x = (
            2 * np.pi * np.fft.fftfreq(n, every) + period * (k - 2) for n, k in zip(total.shape, alias, strict=True)
        )
        u = np.cos(angle) * x[None] + np.sin(angle) * y[:, None]
        v = np.cos(angle) * y[:, None] - np.sin(angle) * x[None]
        total += np.exp(-(width**2) * ((u - at) ** 2 + (v / slant) ** 2) / 2)
    return total


def _wavelets(shape, every: int, scale: float, orientations: int) -> np.ndarray:
    """Morlet wavelets of every orientation, `[L, height, width]`, transformed: modulated Gaussians without their mean."""

    def wavelet(angle):
        gaussian = partial(_gaussian, shape, every, 0.8 * scale, 4 / orientations, angle)
        wave, plain = gaussian(at=0.75 * np.pi / scale), gaussian()
        return wave - wave[0, 0] / plain[0, 0] * plain

    return np.stack([wavelet(np.pi * k / orientations) for k in range(orientations)])
