"""What both JAX implementations share: the operations, the arrays, the copies for several seeds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import Arrays, Case, Ops, Run
from metapt.models.resnet1d import convolve
from metapt.objectives import nt_xent


def _normalise(x, scale, offset):
    axes = tuple(range(x.ndim - 1))
    centred = x - x.mean(axes)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axes) + 1e-5) * scale + offset


def _warp(x, displacement):
    last = x.shape[1] - 1
    at = jnp.clip(jnp.arange(last + 1) + displacement, 0, last)
    left = jnp.minimum(at.astype(int), last - 1)
    read = lambda index: jnp.take_along_axis(x, index[:, :, None], axis=1)
    share = (at - left)[:, :, None]
    return (1 - share) * read(left) + share * read(left + 1)


OPS = Ops(
    relu=jax.nn.relu,
    sigmoid=jax.nn.sigmoid,
    bce=optax.sigmoid_binary_cross_entropy,
    nt_xent=lambda z: nt_xent(z[: len(z) // 2], z[len(z) // 2 :]),
    concatenate=jnp.concatenate,
    segment_sum=jax.ops.segment_sum,
    channels=lambda x: x,
    convolve=convolve,
    normalise=_normalise,
    pool=lambda x: x.mean(1),
    warp=_warp,
)


def load(case: Case, float64: bool) -> Arrays:
    """The arrays of all seeds; with more than one, stacked along a leading axis."""
    if (jnp.result_type(float) == np.float64) != float64:
        jax.config.update("jax_enable_x64", float64)
    kind = lambda x: (np.float64 if float64 else np.float32) if np.issubdtype(x.dtype, np.floating) else np.int32
    seeds = [jax.tree.map(lambda x: jnp.asarray(x, kind(x)), case.arrays(seed)) for seed in range(case.seeds)]
    return seeds[0] if case.seeds == 1 else jax.tree.map(lambda *x: jnp.stack(x), *seeds)


def warm_adam(case: Case):
    """Adam for fine-tuning, and its state as after `case.warm_count` steps."""
    optimizer = optax.adam(case.finetune_lr, eps=case.finetune_eps, eps_root=case.finetune_eps)

    def init(params):
        state: Any = optimizer.init(params)
        adam, *rest = state
        second = jax.tree.map(lambda x: jnp.full_like(x, case.warm_second), params)
        return (adam._replace(count=adam.count + case.warm_count, nu=second), *rest)

    return optimizer, init


def run(case: Case, step: Callable, state: Any, arrays: Arrays, hypergradient: Callable[[Any, Any, Any], dict]) -> Run:
    """Compiles `step(state, arrays) -> (state, more)`; `hypergradient(state before, state, more)`, of the last step."""
    compiled = jax.jit(step if case.seeds == 1 else jax.vmap(step))
    last = [state, state, None]  # before, after, and what else came out

    def advance() -> None:
        last[:] = last[1], *jax.block_until_ready(compiled(last[1], arrays))

    def by_seed() -> list[dict[str, np.ndarray]]:
        found = jax.tree.map(np.asarray, hypergradient(*last))
        one = lambda seed: {name: value[seed] for name, value in found.items()}
        return [found] if case.seeds == 1 else [one(seed) for seed in range(case.seeds)]

    return Run(advance, by_seed)
