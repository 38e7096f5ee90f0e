"""The whole flow: pre-train, transfer, fine-tune, validate, and move the meta-parameters by the derivative of all that.

This is Algorithm 1 of Raghu, Lorraine, Kornblith, McDermott, Duvenaud, "Meta-Learning to Improve Pre-Training"
(NeurIPS 2021). Pre-training is never restarted: the meta-parameters change while it proceeds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.stages import loop as loops, stationarity_gap, transfer_encoder
from metapt.types import Batches, Fit, Loop, Objective, PyTree, SolveInfo, StageInfo, StageState, Transfer, Update


class AlgorithmState(NamedTuple):
    """Everything the next outer step needs: save it, and the run resumes bit for bit."""

    phi: PyTree  # the meta-parameters, unconstrained
    update: PyTree  # what `Update` remembers (the meta-optimizer's moments)
    pretrain: StageState
    finetune: StageState
    solution: PyTree = None  # of the last backward solve, where the next one starts; None: each starts from zero


class AlgorithmInfo(NamedTuple):
    """What a human wants to know of one outer step."""

    pretrain: StageInfo  # [P]
    finetune: StageInfo  # [K]
    validation_loss: Array  # after fine-tuning; what the meta-parameters minimise
    stationarity_gap: Array  # how far from rest pre-training is; `implicit` is exact at 0
    hypergradient_norm: Array  # NaN in a warm-up, which computes none
    indirect_norm: Array  # of its part by way of the pre-trained parameters
    direct_norm: Array  # of the rest: what `transfer` passes on. NaN for both if a stand-in for `jax.grad` was taken
    report: SolveInfo  # how far to trust the hypergradient
    skipped: Array  # True: the hypergradient was not finite and moved nothing


class Algorithm(NamedTuple):
    """Pure functions over one state tree; `jit`, `vmap` and `scan` them as you like."""

    init: Callable[[PyTree, StageState, StageState], AlgorithmState]  # (phi, pretrain, finetune) -> state
    step: Callable[[AlgorithmState, Batches, Array], tuple[AlgorithmState, AlgorithmInfo]]
    warm_up: Callable[[AlgorithmState, Batches, Array], tuple[AlgorithmState, AlgorithmInfo]]  # `step`, phi at rest
    # (pretrained, finetune, meta-parameters, batches, key) -> validation loss: the flow after pre-training
    downstream: Callable[[StageState, StageState, PyTree, Batches, Array], Array]
    # (phi, report, shift, state, batches, key) -> (validation loss, what was trained): what `step` differentiates. `shift`
    # is a tree of zeros, added to the phi that `transfer` sees: the derivative in it is the direct part of that in phi
    meta_loss: Callable[[PyTree, SolveInfo, PyTree, AlgorithmState, Batches, Array], tuple[Array, PyTree]]


def meta_pretraining(
    pretrain: Fit,
    finetune: Fit,
    validate: Objective,
    update: Update,
    constrain: Callable[[PyTree], PyTree] = lambda phi: phi,
    transfer: Transfer = transfer_encoder,
    warm_start: bool = True,
    warm_solve: bool = False,
    differentiate: Callable[..., Callable] = jax.grad,
) -> Algorithm:
    """Algorithm 1, from two fits with stated derivatives. P and K are the lengths of the batches it is given.

    Args:
        pretrain: a fit whose context is the meta-parameters, for example `implicit(stage)`.
        finetune: a fit whose start and context come from `transfer`, for example `unroll(stage)`; the report of an
            implicit one adds to that of pre-training.
        validate: the objective, at the fine-tuned parameters, that the meta-parameters are to lower.
        update: how the meta-parameters move, for example `by_gradient(optax.adam(0.1))`.
        constrain: from the unconstrained phi to the meta-parameters that pre-training sees (`Meta.constrain`).
        transfer: what passes from pre-training to fine-tuning.
        warm_start: fine-tuning goes on from its own last state, as in the paper; False: from its first state every time.
        warm_solve: the implicit rule's linear solve goes on from its last solution: a few iterations an outer step add
            up while the system changes slowly (Arbel and Mairal 2022). One more copy of the parameters, one more product.
        differentiate: with the signature of `jax.grad`, for example `hypergrad.central_differences(step)`.

    Example:
        >>> from metapt import Stage, hypergrad, stages, updates
        >>> stage = Stage(lambda w, context, extra, batch, key: (0.5 * (w - context) ** 2, extra), optax.sgd(0.5))
        >>> validate = lambda w, context, extra, batch, key: (0.5 * (w - batch) ** 2, extra)
        >>> fit, update = hypergrad.unroll(stage), updates.by_gradient(optax.sgd(1.0))
        >>> through = lambda pre, fine, meta: (pre, meta)  # fine-tuning goes on where pre-training ends, towards phi too
        >>> algorithm = meta_pretraining(fit, fit, validate, update, transfer=through)
        >>> state = algorithm.init(jnp.array(0.0), stages.start(stage, jnp.array(0.0)), stages.start(stage, jnp.array(0.0)))
        >>> state, info = algorithm.step(state, Batches(jnp.zeros(2), jnp.zeros(1), jnp.array(1.0)), jax.random.key(0))
        >>> float(state.phi), float(info.hypergradient_norm)  # a step of 1 - 0.5**3 = dw / dphi
        (0.875, 0.875)
    """

    def init(phi: PyTree, pretrain: StageState, finetune: StageState) -> AlgorithmState:
        solution = optax.tree.zeros_like(pretrain.params) if warm_solve else None
        return AlgorithmState(phi, update.init(phi), pretrain, finetune, solution)

    def fine_tune(
        pre: StageState, fine: StageState, meta: PyTree, batches: Batches, keys, report: SolveInfo | None = None
    ):
        start, context = transfer(pre, fine, meta)
        fine, info = finetune(start, context, batches.finetune, keys[0], report)  # K steps
        loss, _ = validate(fine.params, context, fine.extra, batches.validation, keys[1])
        return loss, fine, info

    def meta_loss(phi: PyTree, report: SolveInfo, shift: PyTree, state: AlgorithmState, batches: Batches, key: Array):
        pretrain_key, *keys = jax.random.split(key, 3)
        pre, pre_info = pretrain(state.pretrain, constrain(phi), batches.pretrain, pretrain_key, report)  # P steps
        meta = constrain(optax.tree.add(phi, shift))
        # Only pre-training's solve goes on from its last solution.
        loss, fine, fine_info = fine_tune(pre, state.finetune, meta, batches, keys, report._replace(solution=None))
        infos = pre_info, fine_info, loss, stationarity_gap(pre, pre_info)
        return loss, (pre, fine if warm_start else state.finetune, infos)

    def step(state: AlgorithmState, batches: Batches, key: Array) -> tuple[AlgorithmState, AlgorithmInfo]:
        # The backward solve writes its report into the "gradient" with respect to `report`.
        gradient = differentiate(meta_loss, argnums=(0, 1, 2), has_aux=True)
        blank = SolveInfo.blank(state.solution), optax.tree.zeros_like(state.phi)
        (hypergradient, report, direct), (pre, fine, infos) = gradient(state.phi, *blank, state, batches, key)
        phi, update_state, skipped = update.apply(hypergradient, state.update, state.phi)
        solution, report = report.solution, report._replace(solution=None)
        apart = lambda part: optax.tree.norm(part) if differentiate is jax.grad else jnp.array(jnp.nan)
        info = AlgorithmInfo(
            *infos,
            hypergradient_norm=optax.tree.norm(hypergradient),
            indirect_norm=apart(optax.tree.sub(hypergradient, direct)),
            direct_norm=apart(direct),
            report=report,
            skipped=skipped,
        )
        return AlgorithmState(phi, update_state, pre, fine, solution), info

    def warm_up(state: AlgorithmState, batches: Batches, key: Array) -> tuple[AlgorithmState, AlgorithmInfo]:
        blank, none = SolveInfo.blank(), jnp.array(jnp.nan)
        _, (pre, fine, infos) = meta_loss(state.phi, blank, optax.tree.zeros_like(state.phi), state, batches, key)
        norms = dict.fromkeys(("hypergradient_norm", "indirect_norm", "direct_norm"), none)
        info = AlgorithmInfo(*infos, **norms, report=blank, skipped=jnp.array(False))
        return state._replace(pretrain=pre, finetune=fine), info

    def downstream(pre: StageState, fine: StageState, meta: PyTree, batches: Batches, key: Array) -> Array:
        return fine_tune(pre, fine, meta, batches, jax.random.split(key))[0]

    return Algorithm(init, step, warm_up, downstream, meta_loss)


def run(
    step: Callable[[PyTree, Batches, Array], tuple[PyTree, PyTree]],
    draw: Callable[[Array], Batches],
    state: PyTree,
    key: Array,
    steps: Array,
    loop: Loop = loops.auto,
) -> tuple[PyTree, PyTree]:
    """Outer steps number `steps` (`[n]`, integers) in one dispatch: `step(state, draw(key_a), key_b)`, infos stacked.

    The keys depend on `key` and the step's number alone, so a run cut into chunks equals the uncut run bit for bit.

    Example:
        >>> add = lambda total, batch, key: (total + batch, total)
        >>> end, infos = run(add, lambda key: 1.0, jnp.array(0.0), jax.random.key(0), jnp.arange(3))
        >>> float(end), infos.tolist()
        (3.0, [0.0, 1.0, 2.0])
    """

    def outer(state, number):
        draw_key, step_key = jax.random.split(jax.random.fold_in(key, number))
        return step(state, draw(draw_key), step_key)

    return loop(outer, state, steps)
