"""Wavelet scattering against sums over pixels, and what must not change it."""

import jax.numpy as jnp
import numpy as np
import pytest

from metapt import data

SIDE, SCALES, ORIENTATIONS = 16, 2, 4
X = np.random.default_rng(0).normal(size=(2, SIDE, SIDE))


def _periodic(kernel):
    """A function of two coordinates, summed over the periods of an image."""
    at = np.arange(-3 * SIDE, 3 * SIDE)
    values = kernel(*np.meshgrid(at, at, indexing="ij"))
    return values.reshape(6, SIDE, 6, SIDE).sum((0, 2))


def _bell(width, slant=1.0, angle=0.0, frequency=0.0):
    """A Gaussian of sum 1 along a wave of this frequency."""

    def kernel(y, x):
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        return slant / (2 * np.pi * width**2) * np.exp(-(u**2 + slant**2 * v**2) / (2 * width**2) + 1j * frequency * u)

    return _periodic(kernel)


def _morlet(scale, angle):
    """A wave under a bell, less the multiple of the bell that gives it the mean 0."""
    shape = 0.8 * scale, 4 / ORIENTATIONS, angle
    wave, plain = _bell(*shape, frequency=0.75 * np.pi / scale), _bell(*shape)
    return wave - wave.sum() / plain.sum() * plain


def _convolve(image, kernel):
    out = np.zeros((SIDE, SIDE), complex)
    for i in range(SIDE):
        for j in range(SIDE):
            out += kernel[i, j] * np.roll(image, (i, j), (0, 1))
    return out


def test_coefficients_are_those_of_convolutions_by_hand():
    angles = [np.pi * k / ORIENTATIONS for k in range(ORIENTATIONS)]
    fine, coarse = ([_morlet(scale, angle) for angle in angles] for scale in (1, 2))
    smooth = _bell(0.8 * 2 ** (SCALES - 1))
    cells = slice(2 ** (SCALES - 1), None, 2**SCALES)  # their middles

    def average(image, every=1):
        sampled = np.zeros_like(image)  # what coarse wavelets leave is averaged from every second pixel
        sampled[::every, ::every] = every**2 * image[::every, ::every]
        return _convolve(sampled, smooth).real[cells, cells]

    ours = np.asarray(data.scattering(jnp.asarray(X), SCALES, ORIENTATIONS))
    assert ours.shape == (2, 1 + 2 * 4 + 4**2, 4, 4)
    for image, got in zip(X, ours, strict=True):
        strokes = [np.abs(_convolve(image, psi)) for psi in fine]
        by_hand = [average(image), *(average(x) for x in strokes)]
        by_hand += [average(np.abs(_convolve(x, psi)), every=2) for x in (*strokes, image) for psi in coarse]
        np.testing.assert_allclose(got, by_hand, atol=1e-12)


def test_a_quarter_turn_of_the_image_turns_places_and_orientations():
    turned = np.roll(
        np.rot90(X, axes=(1, 2)), (1, 0), (1, 2)
    )  # about pixel (0, 0), where the convolutions are periodic
    before, after = (np.asarray(data.scattering(jnp.asarray(x), SCALES, ORIENTATIONS)) for x in (X, turned))
    by_angle = lambda f: (f[:, 0], f[:, 1:5], f[:, 5:21].reshape(2, 4, 4, 4, 4), f[:, 21:])
    for old, new in zip(by_angle(before), by_angle(after), strict=True):
        axes = range(1, old.ndim - 2)
        expected = np.roll(np.rot90(old, axes=(-2, -1)), [2] * len(axes), tuple(axes))
        np.testing.assert_allclose(new, expected, atol=1e-12)


def test_a_shift_by_a_cell_shifts_the_coefficients_and_one_by_a_pixel_changes_little():
    ours = lambda x: np.asarray(data.scattering(jnp.asarray(x), SCALES, ORIENTATIONS))
    np.testing.assert_allclose(ours(np.roll(X, 4, 1)), np.roll(ours(X), 1, 2), atol=1e-12)
    moved = np.linalg.norm(ours(np.roll(X, 1, 1)) - ours(X)) / np.linalg.norm(ours(X))
    assert moved < 0.4 < np.linalg.norm(np.roll(X, 1, 1) - X) / np.linalg.norm(X)


def test_a_uniform_image_has_its_brightness_and_nothing_else():
    ours = np.asarray(data.scattering(jnp.full((1, 16, 8), 3.0), 2))
    assert ours.shape == (1, 81, 4, 2)
    np.testing.assert_allclose(ours[:, 0], 3.0, atol=1e-12)
    np.testing.assert_allclose(ours[:, 1:], 0.0, atol=1e-12)


def test_whole_numbers_are_taken_as_single_precision_ones():
    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    ours = data.scattering(images, 1)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, data.scattering(images.astype(float), 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 16, 12), (2, 12, 16)])
def test_sides_that_do_not_divide_are_refused(shape):
    with pytest.raises(ValueError, match=r"scattering: images of .* must have sides that are multiples of 2\^scales=8"):
        data.scattering(jnp.zeros(shape), 3)
    with pytest.raises(ValueError, match="scattering: images must be an array with 3 axes"):
        data.scattering(jnp.zeros(shape[1:]), 1)
