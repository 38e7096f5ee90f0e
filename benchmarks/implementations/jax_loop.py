"""The meta-iteration written out by hand in JAX and optax: what metapt is measured against."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from benchmarks.cases import Arrays, Case, Run
from benchmarks.implementations import jax_common


class State(NamedTuple):
    """What the next meta-iteration needs."""

    params: Any
    adam: Any
    phi: Any
    meta_adam: Any


def prepare(case: Case, float64: bool = False) -> Run:
    """The case, compiled on its first call."""
    arrays = jax_common.load(case, float64)
    init, step = make(case)
    return jax_common.run(case, step, init(arrays), arrays, lambda before, after, more: more[1])


def prepare_plain(case: Case, float64: bool = False) -> Run:
    """The same P + K training steps and the validation loss, without a hypergradient."""
    arrays = jax_common.load(case, float64)
    init, step = make(case, hypergradient=False)
    return jax_common.run(case, step, init(arrays), arrays, lambda before, after, more: more[1])


def make(case: Case, hypergradient: bool = True, unrolled: bool = False):
    """`init(arrays)` and `step(state, arrays) -> (state, (loss, hypergradient))`.

    `unrolled` leaves no loop and recomputes nothing, to count operations.
    """
    pretrain_adam, meta_adam = optax.adam(case.pretrain_lr), optax.adam(case.meta_lr)
    finetune_adam, start = jax_common.warm_adam(case)
    scan = lambda f, carry, xs: lax.scan(f, carry, xs, unroll=len(jax.tree.leaves(xs)[0]) if unrolled else 1)
    checkpoint = (lambda f: f) if unrolled or case.remat == "none" else jax.checkpoint
    finetune_update = finetune_adam.update
    if case.remat == "none" and not unrolled:  # the optimizer's work alone is done again
        finetune_update = jax.checkpoint(finetune_update)

    def pretrain_loss(params, phi, batch):
        return case.pretrain_loss(jax_common.OPS, params, phi, batch)

    def init(arrays: Arrays) -> State:
        one = lambda params, phi: State(params, pretrain_adam.init(params), phi, meta_adam.init(phi))
        return (one if case.seeds == 1 else jax.vmap(one))(arrays.params, arrays.phi)

    def pretrain(params, adam, phi, batches):
        def one(carry, batch):
            params, adam = carry
            updates, adam = pretrain_adam.update(jax.grad(pretrain_loss)(params, phi, batch), adam)
            return (optax.apply_updates(params, updates), adam), None

        return scan(one, (params, adam), batches)[0]

    def validation_loss(encoder, arrays: Arrays):
        def split(encoder, trained):
            return (encoder, trained) if case.head_only else (trained["encoder"], trained["head"])

        def loss(trained, batch):
            return case.finetune_loss(jax_common.OPS, *split(encoder, trained), batch)

        def one(carry, batch):
            trained, adam = carry
            updates, adam = finetune_update(jax.grad(loss)(trained, batch), adam)
            return (optax.apply_updates(trained, updates), adam), None

        def pieces(carry, batches):
            return scan(checkpoint(one), carry, batches)

        trained = arrays.head if case.head_only else {"encoder": encoder, "head": arrays.head}
        carry, batches, size = (trained, start(trained)), arrays.finetune, round(case.K**0.5)
        if case.remat == "nested" and not unrolled:
            whole = case.K // size * size
            head = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), batches)
            carry, _ = scan(checkpoint(pieces), carry, head)
            batches = jax.tree.map(lambda x: x[whole:], batches)
        if len(jax.tree.leaves(batches)[0]):
            carry, _ = pieces(carry, batches)
        return loss(carry[0], arrays.validation)

    def neumann(product, v):
        def one(carry, _):
            term, total = carry
            term = optax.tree.add_scale(term, -case.pretrain_lr, product(term))
            return (term, optax.tree.add(total, term)), None

        _, total = scan(one, (v, v), jnp.zeros(case.terms))[0]
        return optax.tree.scale(case.pretrain_lr, total)

    def implicit(params, phi, v, batch):
        gradient = jax.grad(pretrain_loss)
        _, product = jax.linearize(lambda params: gradient(params, phi, batch), params)
        p = neumann(product, v)
        along = lambda phi: jax.jvp(lambda params: pretrain_loss(params, phi, batch), (params,), (p,))[1]
        return optax.tree.scale(-1, jax.grad(along)(phi))

    def step(state: State, arrays: Arrays):
        params, adam = pretrain(state.params, state.adam, state.phi, arrays.pretrain)
        if not hypergradient:
            return state._replace(params=params, adam=adam), (validation_loss(params["encoder"], arrays), state.phi)
        loss, v = jax.value_and_grad(validation_loss)(params["encoder"], arrays)
        v = {"encoder": v, "head": optax.tree.zeros_like(params["head"])}
        found = implicit(params, state.phi, v, jax.tree.map(lambda x: x[-1], arrays.pretrain))
        updates, moments = meta_adam.update(found, state.meta_adam)
        return State(params, adam, optax.apply_updates(state.phi, updates), moments), (loss, found)

    return init, step
