"""Random features of a kernel: a model that is nearly a kernel machine."""

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
