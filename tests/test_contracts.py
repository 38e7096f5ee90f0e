"""One suite over everything public: the same names, structures, dtypes and finite gradients, for every rule and part."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from metapt import Model, Stage, hypergrad, meta, objectives, solvers, stages
from metapt.types import Meta

RULES = {
    "unroll": hypergrad.unroll,
    "truncate": functools.partial(hypergrad.truncate, last=2),
    "windowed": functools.partial(hypergrad.windowed, window=2),
    "first_order": hypergrad.first_order,
    "detached": hypergrad.detached,
    "implicit": hypergrad.implicit,
    "fixed_point": hypergrad.fixed_point,
    "finite_difference": hypergrad.finite_difference,
    "proximal": functools.partial(hypergrad.proximal, strength=1.0),
}
EVERYWHERE = (
    "unroll",
    "truncate",
    "first_order",
    "implicit",
)  # in float64 and contrastive too; the others compile longer
SOLVERS = {
    "neumann": solvers.neumann(3),
    "cg": solvers.cg(3),
    "dense": solvers.dense(0.1),
    "minres": solvers.minres(3),
    "nystrom": solvers.nystrom(2, damping=solvers.relative(0.1)),
    "from_jaxopt": solvers.from_jaxopt("normal_cg"),
}
PREDICT = objectives.stateless(lambda params, context, x: jnp.tanh(x @ params["w"]) + params["b"])
OBJECTIVES = {
    "cross_entropy": (objectives.cross_entropy, None, "int"),
    "weighted_cross_entropy": (
        objectives.weighted_cross_entropy,
        jax.tree_util.Partial(lambda v, batch: v * batch[0][:, 0] ** 2, 0.5),
        "int",
    ),
    "balanced_tasks": (objectives.balanced_tasks, None, "float"),
    "binary_tasks": (objectives.binary_tasks, None, "float"),
    "contrastive": (
        lambda predict: objectives.contrastive(
            predict, lambda scale, x, key: x + scale * jax.random.normal(key, x.shape, x.dtype)
        ),
        0.5,
        "int",
    ),
    "squared_error": (objectives.squared_error, None, "float"),
    "weighted_tasks": (objectives.weighted_tasks, [1.0, 0.5, 2.0], "float"),
}
OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.1, eps_root=1e-8),
    "clipped_adamw": optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.1, 0.01, 5), eps_root=1e-8)
    ),
}


def test_every_public_part_is_in_a_table():
    whole_step = {"central_differences", "forward"}  # in test_whole_step.py
    whole_step |= {"Particles", "PersistentEvolution", "evolution", "persistent_evolution"}  # in test_evolution.py
    whole_step |= {"ShiftingInfo", "Trajectories", "TrajectoryShifting", "trajectory_shifting"}  # in test_shifting.py
    whole_step |= {"reversible"}  # wants its own optimizer: in test_reversible.py
    plans = {"UnrollPlan", "plan_unroll"}  # in test_plan.py
    assert set(hypergrad.__all__) - whole_step - plans - {"by_leaf", "cut_paths", "linearized"} == set(RULES)
    assert set(solvers.__all__) - {"largest_eigenvalue", "relative"} == set(SOLVERS)
    parts = {
        "Predict",
        "in_bfloat16",
        "stateless",
        "whole",
        "on_features",
        "on_view",
        "together",
        "with_l2",
        "with_teacher",
    }  # in test_pieces.py
    parts |= {"accuracy", "auroc", "task_losses"}  # and in test_graphs.py
    parts |= {"weighted_squares"}  # in test_balance.py
    parts |= {"nt_xent"}  # and in test_signals.py
    parts |= {"half_square_from_start", "mean_over_tasks"}  # and in test_initializations.py
    parts |= {"StartPoint", "fisher_diagonal", "with_start_point"}  # and in test_start_point.py
    parts |= {"Target", "bootstrap", "follow", "unit"}  # `extra` from the parameters: in test_image_views.py
    parts |= {"on_context", "with_penalties"}  # and in test_bilevel.py
    assert set(objectives.__all__) - parts == set(OBJECTIVES)


def _problem(name, optimizer, dtype):
    make, context, labels = OBJECTIVES[name]
    stage = Stage(make(PREDICT), OPTIMIZERS[optimizer])
    cast = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)
    params = cast({"w": jax.random.normal(jax.random.key(0), (4, 3)), "b": jnp.zeros(3)})
    x = cast(jax.random.normal(jax.random.key(1), (5, 6, 4)))
    y = jnp.ones((5, 6), int) if labels == "int" else cast(jnp.arange(90).reshape(5, 6, 3) % 2)
    context = cast(jnp.array(context)) if isinstance(context, list) else cast(context)
    return stage, stages.start(stage, params), context, (x, y)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    ("objective", "optimizer"),
    [*((name, "adam") for name in OBJECTIVES), *(("cross_entropy", name) for name in OPTIMIZERS if name != "adam")],
)
def test_fits_keep_structure_and_dtype_repeat_themselves_and_have_finite_gradients(objective, optimizer, dtype):
    stage, state, context, batches = _problem(objective, optimizer, dtype)
    for name in RULES if dtype == jnp.float32 and objective != "contrastive" else EVERYWHERE:
        fit = RULES[name](stage)

        def loss(context, params, fit=fit):
            end, info = fit(state._replace(params=params), context, batches, jax.random.key(0))
            return optax.tree.norm(end.params, squared=True), (end, info)

        (value, (end, info)), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
            context, state.params
        )
        chex.assert_trees_all_equal_shapes_and_dtypes(end, state)
        assert info.loss.shape == info.grad_norm.shape == (5,) and value.dtype == dtype, name
        for gradient, like in zip(gradients, (context, state.params), strict=True):
            chex.assert_trees_all_equal_shapes_and_dtypes(gradient, like)
        chex.assert_tree_all_finite((value, gradients))
    again = jax.jit(RULES["unroll"](stage))(state, context, batches, jax.random.key(0))
    chex.assert_trees_all_equal(again, jax.jit(RULES["unroll"](stage))(state, context, batches, jax.random.key(0)))


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_keep_structure_and_dtype_under_jit_and_vmap(name):
    for dtype in (jnp.float32, jnp.float64):
        b = {"u": jnp.arange(1.0, 3.0, dtype=dtype), "v": jnp.ones((2, 1), dtype)}
        solve = lambda b: SOLVERS[name](lambda t: jax.tree.map(lambda a: 2 * a, t), b)
        x, info = jax.jit(solve)(b)
        chex.assert_trees_all_equal_shapes_and_dtypes(x, b)
        chex.assert_tree_all_finite(x)
        assert all(leaf.dtype == dtype and leaf.shape == () for leaf in jax.tree.leaves(info))
        stacked, infos = jax.vmap(solve)(jax.tree.map(lambda a: jnp.stack([a, 2 * a]), b))
        chex.assert_trees_all_close(jax.tree.map(lambda a: a[0], (stacked, infos)), solve(b), rtol=1e-5)


@pytest.mark.parametrize("part", [*RULES, *OBJECTIVES, *SOLVERS])
def test_signatures_use_the_vocabulary(part):
    if part in RULES:
        function, names = RULES[part](Stage(PREDICT, optax.sgd(0.1))), ["state", "context", "batches", "key", "report"]
    elif part in OBJECTIVES:
        function, names = OBJECTIVES[part][0](PREDICT), ["params", "context", "extra", "batch", "key"]
    else:
        function, names = SOLVERS[part], ["matvec", "b", "start"]
    assert list(inspect.signature(function).parameters) == names


METAS = {
    "grouped": lambda: meta.grouped(meta.sigmoid_weights(3), [0, 1, 1]),
    "initialization": lambda: meta.initialization(Model(lambda key: jnp.zeros(3), lambda params, x: x @ params)),
    "penalties": lambda: meta.penalties(lambda key: jnp.zeros(3), start=0.1),
}
STEER_VIEWS = {"fraction", "named", "positive", "warp_strength"}  # in test_signals.py
BATCHES = {"distilled"}  # in test_bilevel.py


@pytest.mark.parametrize("name", sorted(set(meta.__all__) - STEER_VIEWS - BATCHES))
def test_metas_are_pairs_with_finite_gradients(name):
    of_examples = name.endswith("example_weights")
    made = METAS[name]() if name in METAS else getattr(meta, name)(_linear_network() if of_examples else 3)
    assert isinstance(made, Meta)
    phi = made.init(jax.random.key(0))
    used = lambda phi: made.constrain(phi)(jnp.arange(6.0).reshape(3, 2)) if of_examples else made.constrain(phi)
    gradient = jax.grad(lambda phi: jnp.sum(used(phi) * jnp.arange(3.0)))(phi)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, phi)
    chex.assert_tree_all_finite(gradient)
    assert used(phi).shape == (3,)


def _linear_network():
    return Model(lambda key: jnp.zeros(2), lambda params, x: x @ params)


def test_extra_is_carried_step_by_step():
    """An objective that counts its calls in `extra`: every rule returns the count of its steps."""
    stage = Stage(lambda p, c, extra, b, k: (p**2 * c, extra + 1), optax.sgd(0.1))
    for name, rule in RULES.items():
        state, info = rule(stage)(
            stages.start(stage, jnp.array(1.0), extra=jnp.array(0)), 1.0, jnp.zeros(6), jax.random.key(0)
        )
        taken = jnp.isfinite(info.loss).sum()
        assert state.extra == taken and (taken == 6 or name == "windowed"), name
