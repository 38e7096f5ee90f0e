"""The meta-iteration from metapt's pieces, as a user composes it."""

from typing import Any

import jax
import optax

from benchmarks.cases import Arrays, Case, Run
from benchmarks.implementations import jax_common
from metapt import hypergrad, meta_pretraining, solvers, stages
from metapt.types import Batches, Stage, StageState
from metapt.updates import by_gradient


def prepare(case: Case, float64: bool = False) -> Run:
    """The case; what a meta-iteration returns is its state and the validation loss, as by hand."""
    return _prepare(case, float64, lambda info: info.validation_loss)


def prepare_with_report(case: Case, float64: bool = False) -> Run:
    """And every training loss and gradient norm, and how far to trust the hypergradient (one more product)."""
    return _prepare(case, float64, lambda info: info)


def _prepare(case: Case, float64: bool, keep) -> Run:
    arrays = jax_common.load(case, float64)
    init, step = make(case)
    first = (init if case.seeds == 1 else jax.vmap(init))(arrays)

    def advance(state, arrays: Arrays):
        state, info = step(state, arrays)
        return state, keep(info)

    def hypergradient(before, after, _):  # what Adam on phi saw: m' = 0.9 m + 0.1 g
        return jax.tree.map(lambda old, new: (new - 0.9 * old) / 0.1, before.update[0].mu, after.update[0].mu)

    return jax_common.run(case, advance, first, arrays, hypergradient)


def make(case: Case):
    """`init(arrays)` and `step(state, arrays) -> (state, info)`."""
    ops = jax_common.OPS
    adam, start = jax_common.warm_adam(case)

    def pretrain_loss(params, context, extra, batch, key):
        return case.pretrain_loss(ops, params, context, batch), extra

    def finetune_loss(params, context, extra, batch, key):
        encoder, head = (context, params) if case.head_only else (params["encoder"], params["head"])
        return case.finetune_loss(ops, encoder, head, batch), extra

    pretrain = Stage(pretrain_loss, optax.adam(case.pretrain_lr))
    finetune = Stage(finetune_loss, optax.GradientTransformation(start, adam.update))
    algorithm = meta_pretraining(
        hypergrad.implicit(pretrain, solvers.neumann(case.terms, step=case.pretrain_lr)),
        hypergrad.unroll(finetune, remat=case.remat),
        finetune_loss,
        by_gradient(optax.adam(case.meta_lr)),
        transfer=stages.transfer_features if case.head_only else stages.transfer_encoder,
        warm_start=False,
    )

    def init(arrays: Arrays) -> Any:
        fine = arrays.head if case.head_only else {"encoder": arrays.params["encoder"], "head": arrays.head}
        starts = stages.start(pretrain, arrays.params), StageState(fine, start(fine), None)
        return algorithm.init(arrays.phi, *starts)

    def step(state: Any, arrays: Arrays):
        batches = Batches(arrays.pretrain, arrays.finetune, arrays.validation)
        return algorithm.step(state, batches, jax.random.key(0))

    return init, step
