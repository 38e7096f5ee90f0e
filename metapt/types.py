"""Every type of the library, with its shapes. Read after `algorithm.py`.

Axis letters: `S` steps, `B` examples in a batch, `D` features, `T` tasks. A "tree" is any pytree of arrays.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax.numpy as jnp
import optax
from jax import Array

PyTree = Any
Matvec = Callable[[PyTree], PyTree]  # v -> A v, both shaped like the unknown


class Objective(Protocol):
    """What a stage minimises: `(params, context, extra, batch, key) -> (loss, extra)`; loss is a scalar, lower is better.

    `context` is what comes from upstream (for pre-training the meta-parameters, for fine-tuning whatever `transfer`
    passes on), `extra` is state that is carried but not trained (batch-norm statistics, a target network).
    """

    def __call__(
        self, params: PyTree, context: PyTree, extra: PyTree, batch: PyTree, key: Array
    ) -> tuple[Array, PyTree]: ...


class Stage(NamedTuple):
    """A training run, before anybody has said how long it is or how it is differentiated."""

    objective: Objective
    optimizer: optax.GradientTransformation


class StageState(NamedTuple):
    """What the next training step needs."""

    params: PyTree
    opt_state: PyTree
    extra: PyTree


class StageInfo(NamedTuple):
    """What a human wants to know of a training run."""

    loss: Array  # [S] the objective before each step
    grad_norm: Array  # [S] Euclidean norm of its gradient
    skipped: Array  # [S] True: the gradient was not finite, and the optimizer saw one of zero
    dead: Array  # [S] share of units (of an "encoder", if named) whose bias or scale had a gradient of 0; NaN: unknown


class SolveInfo(NamedTuple):
    """How far to trust an inverse-Hessian product. Scalars, all floating (they travel as a cotangent: `hypergrad.implicit`)."""

    residual: Array  # |A x - b| / |b|; 0 is exact
    contraction: (
        Array  # factor by which one more iteration shrinks the error (estimate); >= 1 diverges, NaN: nothing iterates
    )
    negative_curvature: Array  # 1 if some direction with v'Av < 0 was met, else 0
    finite: Array  # 1 if every number of x is finite, else 0
    solves: Array  # how many solves this report speaks of; 0: no implicit rule was differentiated
    agreement: Array  # cosine of v' dtheta/dc with that for x = b, which needs no solve; NaN if no rule looked
    solution: PyTree = None  # x itself, if the report was blank(start): where the next solve can start

    @classmethod
    def blank(cls, start: PyTree = None) -> "SolveInfo":
        """The report before anything was solved; `start` is where the solve is to start (a tree like x, None: at zero)."""
        zero = jnp.zeros(())
        return cls(zero, zero, zero, zero, zero, zero, start)


class Solve(Protocol):
    """An approximate `x` with `A x = b`, for a symmetric `A` that is only known by its products.

    With `start`, a nearby solution, the work goes into what is missing from it.
    """

    def __call__(self, matvec: Matvec, b: PyTree, start: PyTree = None, /) -> tuple[PyTree, SolveInfo]: ...


class Fit(Protocol):
    """A stage with a stated derivative: `(state, context, batches, key) -> (state, info)`.

    `batches` is a tree with a leading step axis `[S, ...]`; the number of steps is its length. `report` is where the
    backward pass writes what its linear solve was worth: differentiate with respect to it and read the "gradient".
    """

    def __call__(
        self, state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]: ...


Rule = Callable[[Stage], Fit]


class Loop(Protocol):
    """The interface of `jax.lax.scan(body, carry, xs)`."""

    def __call__(self, f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, /) -> tuple[Any, Any]: ...


class Transfer(Protocol):
    """Where fine-tuning starts, and the context it sees: `(pretrained, finetune, meta) -> (start, context)`."""

    def __call__(self, pretrained: StageState, finetune: StageState, meta: PyTree) -> tuple[StageState, PyTree]: ...


class Meta(NamedTuple):
    """What is learned on top: an unconstrained tree, and the value that is used."""

    init: Callable[[Array], PyTree]  # key -> unconstrained tree
    constrain: Callable[[PyTree], PyTree] = lambda unconstrained: unconstrained


class Update(NamedTuple):
    """How the meta-parameters move: `init(phi) -> state`, `apply(hypergradient, state, phi) -> (phi, state, skipped)`."""

    init: Callable[[PyTree], PyTree]
    apply: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree, Array]]


class Model(NamedTuple):
    """Anything with parameters: `init(key) -> params`, `apply(params, x) -> y` (linen, nnx, equinox and plain JAX all fit)."""

    init: Callable[[Array], PyTree]
    apply: Callable[..., Any]


Mode = Literal["batch", "frozen", "running"]
"""Of batch normalisation and dropout: `"batch"` normalises by the batch, moves the running averages and drops units;
`"frozen"` normalises by the running averages as they are, and drops units; `"running"` does so and drops none."""


class StatefulModel(NamedTuple):
    """A model with running averages: `init(key) -> (params, extra)`, `apply(params, extra, x, key, mode) -> (y, extra)`."""

    init: Callable[[Array], tuple[PyTree, PyTree]]
    apply: Callable[[PyTree, PyTree, PyTree, Array, Mode], tuple[Any, PyTree]]


class Batches(NamedTuple):
    """The data of one outer step."""

    pretrain: PyTree  # [P, ...] one batch a pre-training step
    finetune: PyTree  # [K, ...] one batch a fine-tuning step
    validation: PyTree  # one batch
