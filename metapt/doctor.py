"""Is the hypergradient right here, and which rule is worth its price? Every rule against the exact derivative."""

import logging
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from metapt.algorithm import Algorithm, AlgorithmState
from metapt.checks import whole
from metapt.exactness import NOT_FINITE, against_differences, compared, listed, named_leaves
from metapt.hypergrad import finite_difference, first_order, fixed_point, implicit, truncate, unroll
from metapt.solvers import cg, minres, neumann, nystrom, relative
from metapt.types import Batches, PyTree, Rule, SolveInfo

_log = logging.getLogger("metapt")
_LEGEND = """
rel.error, cosine: against unroll, whose own are against finite differences.
residual: of the linear solve. seconds, MB: of one compiled call. -: no figure."""


class Candidate(NamedTuple):
    """A way to the hypergradient: how pre-training is differentiated, and by what if not by `jax.grad`."""

    rule: Rule
    differentiate: Callable[..., Callable[..., Any]] = jax.grad
    optional: bool = False  # left out of the table where it sees nothing of phi


EXACT = {"unroll": Candidate(unroll)}
RULES: dict[str, Candidate] = {
    "truncate_1": Candidate(lambda stage: truncate(stage, last=1)),
    "first_order": Candidate(first_order, optional=True),
    "neumann_0": Candidate(lambda stage: implicit(stage, neumann(0))),
    "neumann_1": Candidate(lambda stage: implicit(stage, neumann(1))),
    "neumann_5": Candidate(lambda stage: implicit(stage, neumann(5))),
    "neumann_20": Candidate(lambda stage: implicit(stage, neumann(20))),
    "cg_damped": Candidate(lambda stage: implicit(stage, cg(20, relative(1e-2)))),
    "minres_damped": Candidate(lambda stage: implicit(stage, minres(20, relative(1e-2)))),
    "nystrom_10": Candidate(lambda stage: implicit(stage, nystrom(10, relative(1e-2)))),
    "fixed_point_5": Candidate(fixed_point),
    "finite_difference": Candidate(finite_difference),
}


class RuleCheck(NamedTuple):
    """What a rule's hypergradient is worth on a problem, and what it costs."""

    rule: str
    relative_error: float  # |g - exact| / |exact|; of the exact rule itself, against finite differences
    cosine: float  # between the same two; NaN if one is zero
    residual: float  # of the linear solve; NaN if nothing is solved
    seconds: float  # of one compiled call
    peak_mb: float  # of temporaries and results; NaN where the backend does not tell
    advice: str


class HypergradientCheck(NamedTuple):
    """The rows of a check, the exact rule first; `print` shows them as a table."""

    rows: tuple[RuleCheck, ...]

    def __str__(self) -> str:
        """A table for people, 80 columns wide, the advice under the figures."""
        line = "{:<18} {:>9} {:>7} {:>9} {:>9} {:>8}".format
        number = lambda value, none="-", form=".2g": none if np.isnan(value) else format(value, form)

        def lines(row: RuleCheck):
            figures = number(row.cosine, form=".3f"), number(row.residual), number(row.seconds)
            memory = number(row.peak_mb, "-" if np.isnan(row.seconds) else "unknown")
            yield line(row.rule, number(row.relative_error), *figures, memory)
            yield textwrap.fill(row.advice, 80, initial_indent="    ", subsequent_indent="    ")

        heading = line("rule", "rel.error", "cosine", "residual", "seconds", "MB")
        return "\n".join([heading, *(part for row in self.rows for part in lines(row)), _LEGEND])


def check_hypergradient(
    compose: Callable[[Rule], Algorithm],
    state: AlgorithmState,
    batches: Batches,
    key: Array,
    pretrain_steps: int = 5,
    finetune_steps: int = 5,
    rules: Mapping[str, Candidate] | None = None,
) -> HypergradientCheck:
    """Compares the rules on one outer step of your own problem, shortened to a few steps.

    The exact derivative is `unroll` through all of these steps, and is itself held against central differences of the
    whole procedure (pre-train, fine-tune, validate; same batches, same keys), along itself and random directions of phi.
    All is compared at `state`: one that has trained for a while tells more about `implicit` than the first.
    If float64 is on (`jax.enable_x64`), float32 arrays take part in float64, where the model allows it.

    Args:
        compose: from a rule of pre-training to the algorithm, for example
            `lambda rule: task_weights(..., rule=rule).algorithm`.
        state: of the algorithm, as `Algorithm.init` or a step gives it.
        batches: of one outer step, of which the first `pretrain_steps` and `finetune_steps` are taken. Examples are not
            cut: make smaller batches yourself.
        key: of the outer step.
        rules: what to compare, by name; by default `doctor.RULES`.

    Raises:
        ValueError: if a number of steps is below 1, or `unroll` refuses the optimizer of pre-training.

    Example:
        >>> import optax
        >>> from metapt import Stage, doctor, meta_pretraining, stages, updates
        >>> pull = lambda params, c, extra, batch, key: (0.5 * jnp.sum((params - (0 if c is None else c)) ** 2), extra)
        >>> stage = Stage(pull, optax.sgd(0.5))
        >>> update = updates.by_gradient(optax.sgd(1.0))
        >>> compose = lambda rule: meta_pretraining(rule(stage), unroll(stage), pull, update, transfer=stages.transfer_all)
        >>> start = stages.start(stage, jnp.zeros(2))
        >>> state, batches = compose(unroll).init(jnp.ones(2), start, start), Batches(jnp.zeros(3), jnp.zeros(1), None)
        >>> rules = {"implicit": doctor.RULES["cg_damped"]}
        >>> check = check_hypergradient(compose, state, batches, jax.random.key(0), rules=rules)
        >>> [(row.rule, round(row.relative_error, 2), round(row.cosine, 2)) for row in check.rows]
        [('unroll', 0.0, 1.0), ('implicit', 0.13, 1.0)]
    """
    for name, steps in (("pretrain_steps", pretrain_steps), ("finetune_steps", finetune_steps)):
        whole(f"check_hypergradient: {name}", steps)
    first = lambda tree, steps: jax.tree.map(lambda x: x[:steps], tree)
    batches = batches._replace(
        pretrain=first(batches.pretrain, pretrain_steps), finetune=first(batches.finetune, finetune_steps)
    )
    algorithm = compose(unroll)
    blank = SolveInfo.blank(), jax.tree.map(jnp.zeros_like, state.phi)
    problem = _widest(algorithm, (state.phi, *blank, state._replace(solution=None), batches, key))
    meta_loss = jax.jit(lambda *problem: algorithm.meta_loss(*problem)[0])
    rows: list[RuleCheck] = []
    exact, nan = None, np.nan
    for name, candidate in (EXACT | dict(RULES if rules is None else rules)).items():
        _log.info("hypergradient by %s", name)
        try:
            gradient, report, seconds, peak_mb = _measure(candidate, compose, problem)
        except ValueError as refusal:
            if exact is None:
                raise
            rows.append(RuleCheck(name, nan, nan, nan, nan, nan, f"refuses: {refusal}".partition("\n")[0]))
            continue
        if candidate.optional and not any(np.any(leaf) for leaf in jax.tree.leaves(gradient)):
            continue
        if exact is None:
            exact = gradient
            error, cosine, says = against_differences(lambda phi: meta_loss(phi, *problem[1:]), problem[0], gradient)
        else:
            error, cosine = compared(*(np.asarray(ravel_pytree(tree)[0], float) for tree in (gradient, exact)))
            says = _advice(gradient, exact, error, cosine, report)
        residual = float(report.residual) if report.solves else np.nan
        rows.append(RuleCheck(name, error, cosine, residual, seconds, peak_mb, says))
    return HypergradientCheck(tuple(rows))


def _widest(algorithm: Algorithm, problem: tuple) -> tuple:
    """The problem in the default precision, if the model can do with it, else as it is."""
    problem = jax.tree.map(jnp.asarray, problem)
    to = jnp.result_type(float)
    wide = jax.tree.map(lambda x: x.astype(to) if x.dtype == jnp.float32 else x, problem)
    try:
        jax.eval_shape(algorithm.meta_loss, *wide)
    except (TypeError, ValueError):  # a loop's carry, or an `extra`, that the model makes float32
        return problem
    return wide


def _measure(candidate: Candidate, compose, problem: tuple) -> tuple[PyTree, SolveInfo, float, float]:
    """The hypergradient and the solver's report; seconds of a call, megabytes."""
    differentiated = candidate.differentiate(compose(candidate.rule).meta_loss, argnums=(0, 1), has_aux=True)
    compiled = jax.jit(lambda *problem: differentiated(*problem)[0]).lower(*problem).compile()
    jax.block_until_ready(compiled(*problem))
    begun = time.perf_counter()
    gradient, report = jax.device_get(jax.block_until_ready(compiled(*problem)))
    seconds = time.perf_counter() - begun
    try:
        memory: Any = compiled.memory_analysis()
        peak_mb = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6
    except (AttributeError, NotImplementedError, RuntimeError):
        peak_mb = np.nan
    return gradient, report, seconds, peak_mb


def _advice(gradient: PyTree, exact: PyTree, error: float, cosine: float, report: SolveInfo) -> str:
    """Of another rule, from its gradient, the exact one, and the report of its solve."""
    if not all(np.isfinite(leaf).all() for _, leaf in named_leaves(gradient)):
        return f"{NOT_FINITE}: do not use"
    both = zip(named_leaves(gradient), named_leaves(exact), strict=True)
    unseen = [name for (name, g), (_, e) in both if e.any() and not g.any()]
    if unseen:
        rest = "a point of rest knows nothing of the start, of extra and, under implicit, of the optimizer"
        why = rest if report.solves else "it acts outside the steps that this rule differentiates"
        return f"zero in {listed(unseen)}, unlike the exact one: {why}"
    if error == 0 and np.isnan(cosine):
        return "zero, as the exact one is"
    if not np.isfinite(error):
        return "nothing to compare with: the exact one is zero or not finite"
    if error <= 0.1:
        return "as good as the exact one here"
    return _direction(cosine) + _reason(report)


def _direction(cosine: float) -> str:
    if cosine >= 0.9:
        return "right direction, another length: fine with Adam on phi"
    if cosine >= 0.5:
        return "roughly the right direction"
    return "hardly the right direction" if cosine > 0 else "points the wrong way"


def _reason(report: SolveInfo) -> str:
    if not report.solves:
        return ""
    if report.contraction >= 1 or report.residual > 1:
        return "; the solve diverges: more damping, or fewer terms"
    if report.negative_curvature:
        return "; negative curvature: damping, or Gauss-Newton"
    if report.residual > 0.3:
        return f"; not solved (residual {report.residual:.2g}): more terms, or less damping"
    return "; solved, but these few steps of training are far from rest"
