"""Networks of signals, `[B, T, C]` with channels last: residual encoders, and the network that steers a warp."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args, overload

import jax.numpy as jnp
from flax import linen
from jax import Array, lax

from metapt.checks import whole
from metapt.models.adapters import from_linen, from_linen_stateful
from metapt.types import Model, StatefulModel

Norm = Literal["batch", "group"]
Activation = Callable[[Array], Array]
# Multiplications that cost as much as copying a number, on a CPU: of 8, 16, 32, 64 and 128, the last three are within 7 %.
COPY = 64


def convolve(x: Array, kernel: Array, stride: int = 1, padding: int = 0) -> Array:
    """Convolution along time as one matrix product: `[B, T, I], [K, I, O] -> [B, (T + 2 padding - K) // stride + 1, O]`.

    A row of the product is a window of the signal that serves one, two, four or eight neighbouring outputs, whichever
    copies and multiplies least: many for long signals of few channels, one where the kernel is larger than the signal. On
    one CPU core a gradient takes 1.1 times (two blocks) to 1.5 times (18 layers) as long as with XLA's own convolution
    outside `lax.scan`; inside, XLA's takes 35 times as long.

    Raises:
        ValueError: if the padded signal is shorter than the kernel.

    Example:
        >>> convolve(jnp.arange(5.0).reshape(1, 5, 1), jnp.ones((3, 1, 1)), stride=2, padding=1).ravel().tolist()
        [1.0, 6.0, 7.0]
    """
    whole("convolve: stride", stride)
    (batch, time, inputs), (size, _, outputs) = x.shape, kernel.shape
    length = (time + 2 * padding - size) // stride + 1
    if length < 1:
        raise ValueError(
            f"convolve: {time} samples with padding {padding} are fewer than the kernel's {size}: give longer signals, "
            "fewer layers or a smaller kernel"
        )

    def cost(together: int) -> int:
        rows, width = batch * -(-length // together), (size + (together - 1) * stride) * inputs
        return width * (rows * (together * outputs + COPY) + COPY * together * outputs)

    together = min((1, 2, 4, 8), key=cost)
    rows, hop, window = -(-length // together), together * stride, size + (together - 1) * stride
    reach = -(-window // hop)
    needed = (rows + reach - 1) * hop
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (padding, needed - time - padding, 0), (0, 0, 0)))
    pieces = padded.reshape(batch, rows + reach - 1, hop * inputs)
    windows = jnp.concatenate([pieces[:, i : i + rows] for i in range(reach)], axis=2)[..., : window * inputs]
    shifts = [((i * stride, (together - 1 - i) * stride), (0, 0), (0, 0)) for i in range(together)]
    shifted = jnp.stack([jnp.pad(kernel, shift) for shift in shifts], axis=2)
    product = windows @ shifted.reshape(window * inputs, together * outputs)
    return product.reshape(batch, rows * together, outputs)[:, :length]


@overload
def resnet1d(
    channels: int,
    widths: Sequence[int] = ...,
    blocks: int = ...,
    kernel: int = ...,
    norm: Literal["batch"] = ...,
    activation: Activation = ...,
) -> StatefulModel: ...
@overload
def resnet1d(
    channels: int,
    widths: Sequence[int] = ...,
    blocks: int = ...,
    kernel: int = ...,
    *,
    norm: Literal["group"],
    activation: Activation = ...,
) -> Model: ...
@overload
def resnet1d(
    channels: int,
    widths: Sequence[int] = ...,
    blocks: int = ...,
    kernel: int = ...,
    norm: Norm = ...,
    activation: Activation = ...,
) -> Model | StatefulModel: ...
def resnet1d(
    channels: int,
    widths: Sequence[int] = (32, 64, 128, 256),
    blocks: int = 2,
    kernel: int = 15,
    norm: Norm = "batch",
    activation: Activation = linen.relu,
) -> Model | StatefulModel:
    """A residual network along time: `[B, T, channels] -> [B, widths[-1]]`, a mean over time at the end.

    The first layer and all stages but the first halve the rate; no pooling between. As given it is the 1-D ResNet-18.

    Args:
        widths: of the stages.
        blocks: in a stage, of two convolutions each.
        kernel: odd; of all convolutions but the shortcuts.
        norm: `"batch"` gives a model with running averages; `"group"`, at most 8 groups, one without.
        activation: a smooth one, as `jax.nn.silu`, if training is differentiated through (docs/sharp_edges.md).

    Raises:
        ValueError: if a number or a name is not allowed.

    Source: He et al. 2016, section 4.1; Raghu et al. 2021, section 5.2, and their code, whose first layer pads 3 samples
    instead of half a kernel. Wu and He 2018, "Group Normalization".

    Example:
        >>> import jax
        >>> model = resnet1d(channels=12, widths=(16, 32), blocks=1, kernel=7, norm="group")
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 100, 12))).shape
        (5, 32)
    """
    if min(channels, blocks, kernel) < 1 or not widths or min(widths) < 1 or kernel % 2 == 0:
        raise ValueError(
            f"resnet1d: channels={channels}, widths={tuple(widths)}, blocks={blocks}, kernel={kernel} must all be at least "
            "1, with at least one width and an odd kernel"
        )
    if norm not in get_args(Norm):
        raise ValueError(f"resnet1d: norm={norm!r} is not one of {', '.join(map(repr, get_args(Norm)))}")
    adapt = from_linen_stateful if norm == "batch" else from_linen
    return adapt(_ResNet(tuple(widths), blocks, kernel, norm, activation), jnp.zeros((1, kernel, channels)))


def warp_network(
    channels: int, width: int = 32, kernel: int = 15, layers: int = 4, activation: Activation = linen.relu
) -> Model:
    """One logit a signal, `[B, T, channels] -> [B]`, near 0 at first: how strongly to warp it (`meta.warp_strength`).

    Every layer halves the rate without padding and normalises by the batch, which couples the examples; a mean over time
    and a linear layer follow. As given, 211 samples are the fewest; at 12 channels it has 52,257 parameters.

    Source: Raghu et al. 2021, section 5.2, and their code.

    Example:
        >>> import jax
        >>> model = warp_network(channels=2, width=4, kernel=3, layers=2)
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 30, 2))).shape
        (5,)
    """
    if min(channels, width, kernel, layers) < 1:
        raise ValueError(
            f"warp_network: channels={channels}, width={width}, kernel={kernel}, layers={layers} must be at least 1"
        )
    shortest = 2**layers + (kernel - 2) * (2**layers - 1)
    return from_linen(_WarpNetwork(width, kernel, layers, activation), jnp.zeros((1, shortest, channels)))


class _Conv(linen.Module):
    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    bias: bool = True
    kernel_init: linen.initializers.Initializer = linen.initializers.variance_scaling(2.0, "fan_out", "normal")

    @linen.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (self.kernel, x.shape[-1], self.features))
        y = convolve(x, kernel, self.stride, self.padding)
        return y + self.param("bias", linen.initializers.zeros, (1, 1, self.features)) if self.bias else y


class _ResNet(linen.Module):
    widths: Sequence[int]
    blocks: int
    kernel: int
    norm: Norm
    activation: Activation

    @linen.compact
    def __call__(self, x: Array, mode: str = "running") -> Array:
        def norm(x: Array) -> Array:
            if self.norm == "batch":
                return linen.BatchNorm(mode != "batch", momentum=0.9, epsilon=1e-5)(x)
            return linen.GroupNorm(math.gcd(8, x.shape[-1]), epsilon=1e-5)(x)

        conv = lambda width, stride=1, bias=True: _Conv(width, self.kernel, stride, self.kernel // 2, bias)
        x = self.activation(norm(conv(self.widths[0], stride=2, bias=False)(x)))
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if stage and not block else 1
                y = self.activation(norm(conv(width, stride)(x)))
                y = norm(conv(width)(y))
                if y.shape != x.shape:
                    x = norm(linen.Dense(width, use_bias=False)(x[:, ::stride]))
                x = self.activation(x + y)
        return x.mean(axis=1)


class _WarpNetwork(linen.Module):
    width: int
    kernel: int
    layers: int
    activation: Activation

    @linen.compact
    def __call__(self, x: Array) -> Array:
        init = linen.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        for _ in range(self.layers):
            x = _Conv(self.width, self.kernel, stride=2, kernel_init=init)(x)
            # Over examples and time: batch normalisation that keeps no averages.
            x = self.activation(linen.LayerNorm(epsilon=1e-5, reduction_axes=(0, 1), feature_axes=-1)(x))
        return linen.Dense(1, kernel_init=init)(x.mean(axis=1))[:, 0]
