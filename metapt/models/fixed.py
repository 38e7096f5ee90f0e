"""Features that are not trained, under a model that is: it errs less on few examples than one on raw numbers."""

import jax.numpy as jnp
import numpy as np

from metapt.checks import real, whole
from metapt.types import Model


def on_fourier_features(model: Model, inputs: int, features: int, frequency: float) -> Model:
    """`model` on sqrt(2) cos(x W + b), which is not trained: W ~ N(0, frequency^2), b ~ U(0, 2 pi), drawn once.

    Over many features their mean product is a Gaussian kernel, exp(-frequency^2 |x - x'|^2 / 2): a linear layer on them is
    nearly a kernel machine: on few examples it errs less than a perceptron, and its loss is convex.

    Args:
        model: takes `[B, features]`.
        inputs: numbers in one example, in whatever shape (an image is flattened).
        features: their number.
        frequency: standard deviation of W, in radians per unit of x; one over the length scale of the kernel.

    Source: Rahimi and Recht 2007, "Random Features for Large-Scale Kernel Machines", algorithm 1.

    Example:
        >>> same = Model(lambda key: None, lambda params, z: z)
        >>> model = on_fourier_features(same, inputs=2, features=10_000, frequency=0.5)
        >>> z = model.apply(None, jnp.array([[0.0, 0.0], [2.0, 0.0]]))
        >>> round(float(jnp.mean(z[0] * z[1])), 2), round(float(jnp.exp(-0.5)), 2)
        (0.6, 0.61)
    """
    for name, number in (("inputs", inputs), ("features", features)):
        whole(f"on_fourier_features: {name}", number)
    real("on_fourier_features: frequency", frequency, above=0)
    rng = np.random.default_rng(0)
    weights = (frequency * rng.normal(size=(inputs, features))).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, features).astype(np.float32)

    def apply(params, x, *rest):
        return model.apply(params, jnp.sqrt(2.0) * jnp.cos(x.reshape(len(x), -1) @ weights + phases), *rest)

    return Model(model.init, apply)


def on_gradient_histograms(model: Model, side: int, cells: int, orientations: int = 8) -> Model:
    """`model` on local histograms of an image's gradients, which are not trained: which way its strokes go, and where.

    At every pixel, central differences g (0 beyond the border) fill a bin for each direction u_k, evenly over the circle:
    max(0, g u_k). Triangular windows average each bin over `cells` by `cells` places; the numbers h of an image are divided by
    their sum, and their square roots are taken. So contrast does not matter, and shifts of less than a cell matter little; a
    background other than 0 is an edge at the border.

    Args:
        model: takes `[B, cells * cells * orientations]`, of Euclidean norm 1 (0 for an image without an edge, up to 1e-6).
        side: pixels of an image's side; images are `[B, side, side]`, or flattened.
        cells: places along a side, at most `side`.
        orientations: bins of a histogram.

    Source: Dalal and Triggs 2005, "Histograms of Oriented Gradients for Human Detection", section 6; the square root:
    Arandjelovic and Zisserman 2012, "Three things everyone should know to improve object retrieval", section 2.

    Example:
        >>> same = Model(lambda key: None, lambda params, h: h)
        >>> histogram = on_gradient_histograms(same, side=4, cells=1, orientations=4)
        >>> edge = jnp.zeros((1, 4, 4)).at[:, :, 2:].set(1.0)  # it brightens to the right, and ends at the border
        >>> [round(float(number), 2) for number in histogram.apply(None, edge)[0]]
        [0.76, 0.32, 0.46, 0.32]
    """
    for name, number in (("side", side), ("cells", cells), ("orientations", orientations)):
        whole(f"on_gradient_histograms: {name}", number)
    if cells > side:
        raise ValueError(f"on_gradient_histograms: cells={cells} must be at most side={side}")
    angle = 2 * np.pi * np.arange(orientations) / orientations
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    middle = (np.arange(cells) + 0.5) * side / cells - 0.5
    window = np.maximum(0.0, 1.0 - np.abs(np.arange(side) - middle[:, None]) * cells / side)
    window = (window / window.sum(1, keepdims=True)).astype(np.float32)

    def apply(params, x, *rest):
        framed = jnp.pad(x.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)))
        right = framed[:, 1:-1, 2:] - framed[:, 1:-1, :-2]
        down = framed[:, 2:, 1:-1] - framed[:, :-2, 1:-1]
        bins = jnp.maximum(0.0, right[..., None] * cos + down[..., None] * sin)
        h = jnp.einsum("ai,bj,nijk->nabk", window, window, bins).reshape(len(x), -1)
        # An image without an edge, and the root at 0: no division by 0, no infinite derivative.
        return model.apply(params, jnp.sqrt(h / (h.sum(1, keepdims=True) + 1e-6) + 1e-12), *rest)

    return Model(model.init, apply)
