"""Rules agree in their common limits, whatever the loop, jit, vmap or recomputation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Stage, hypergrad, solvers, stages
from tests.oracles import Quadratic, plain

OBJECTIVE = plain(lambda p, c: jnp.sum(jnp.cos(p["a"] * c) + 0.3 * p["a"] ** 2) + jnp.sum((p["b"] - c.sum()) ** 2))
PARAMS = {"a": np.array([0.5, -1.0]), "b": np.array(0.3)}
RULES = {
    "unroll": hypergrad.unroll,
    "unroll_none": functools.partial(hypergrad.unroll, remat="none"),
    "unroll_nested": functools.partial(hypergrad.unroll, remat="nested"),
    "truncate": functools.partial(hypergrad.truncate, last=3),
    "first_order": hypergrad.first_order,
    "implicit": hypergrad.implicit,
}
LOOPS = {"scan": jax.lax.scan, "unrolled": stages.loop.unrolled, "host": stages.loop.host, "auto": stages.loop.auto}


def _value_and_grad(fit, stage, steps=7):
    def loss(params, context):
        state, info = fit(stages.start(stage, params), context, jnp.zeros(steps), jax.random.key(0))
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(state.params)), info

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


def _stage():
    return Stage(OBJECTIVE, optax.adam(0.1, eps_root=1e-8))


CONTEXT = np.array([0.7, 1.1])


@pytest.mark.parametrize("rule", RULES)
def test_values_are_the_same_under_every_rule(rule):
    stage = _stage()
    (value, info), _ = _value_and_grad(RULES[rule](stage), stage)(PARAMS, CONTEXT)
    (expected, expected_info), _ = _value_and_grad(hypergrad.unroll(stage, remat="none"), stage)(PARAMS, CONTEXT)
    chex.assert_trees_all_close((value, info), (expected, expected_info), rtol=1e-14)  # fusion may cost the last bit


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("rule", RULES)
def test_derivatives_do_not_depend_on_the_loop(rule, loop):
    stage = _stage()
    found = _value_and_grad(RULES[rule](stage, loop=LOOPS[loop]), stage)(PARAMS, CONTEXT)
    expected = _value_and_grad(RULES[rule](stage, loop=jax.lax.scan), stage)(PARAMS, CONTEXT)
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_jit_equals_eager_and_vmap_equals_loop(rule):
    stage = _stage()
    f = _value_and_grad(RULES[rule](stage), stage)
    contexts = np.array([[0.7, 1.1], [0.2, -0.4], [1.5, 0.0]])
    looped = [f(PARAMS, context) for context in contexts]
    chex.assert_trees_all_close(jax.jit(f)(PARAMS, contexts[0]), looped[0], rtol=1e-11, atol=1e-13)
    mapped = jax.vmap(f, in_axes=(None, 0))(PARAMS, contexts)
    chex.assert_trees_all_close(
        mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped), rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("remat", ["none", "full", "nested"])
@pytest.mark.parametrize("steps", [1, 2, 7, 16, 17])
def test_recomputation_changes_nothing(remat, steps):
    stage = _stage()
    found = _value_and_grad(hypergrad.unroll(stage, remat=remat), stage, steps)(PARAMS, CONTEXT)
    expected = _value_and_grad(hypergrad.unroll(stage, remat="none", loop=stages.loop.unrolled), stage, steps)(
        PARAMS, CONTEXT
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-13)


def test_nested_recomputation_saves_memory():
    stage = Stage(plain(lambda p, c: jnp.sum(jnp.tanh(p * c) ** 2)), optax.sgd(0.1))

    def peak(remat):
        fit = hypergrad.unroll(stage, remat=remat)
        end = lambda c: jnp.sum(
            fit(stages.start(stage, jnp.ones(1000)), c, jnp.zeros(400), jax.random.key(0))[0].params
        )
        return jax.jit(jax.grad(end)).lower(jnp.ones(1000)).compile().memory_analysis().temp_size_in_bytes

    assert peak("nested") < 0.2 * peak("full") and peak("full") < peak("none")


def test_truncation_is_the_unroll_from_the_state_where_it_begins():
    stage = _stage()
    keys = jax.random.split(jax.random.key(0), 7)
    middle, _ = stages.trainer(stage)(stages.start(stage, PARAMS), CONTEXT, jnp.zeros(4), keys[:4])

    def rest(context):
        return optax.tree.norm(stages.trainer(stage)(middle, context, jnp.zeros(3), keys[4:])[0].params, squared=True)

    (_, _), (to_start, to_context) = _value_and_grad(hypergrad.truncate(stage, last=3), stage)(PARAMS, CONTEXT)
    np.testing.assert_allclose(to_context, jax.grad(rest)(CONTEXT), rtol=1e-12)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(to_start))


def test_first_order_moves_as_the_start_does():
    stage = _stage()
    fit = hypergrad.first_order(stage)
    end = lambda params, context: fit(stages.start(stage, params), context, jnp.zeros(5), jax.random.key(0))[0].params[
        "a"
    ]
    np.testing.assert_array_equal(jax.jacobian(end)(PARAMS, CONTEXT)["a"], np.eye(2))
    np.testing.assert_array_equal(jax.jacobian(end, argnums=1)(PARAMS, CONTEXT), np.zeros((2, 2)))


def test_implicit_equals_jaxopts_own_decorator():
    """jaxopt as an oracle: custom_root around the same training run and the same solver."""
    import jaxopt

    quadratic = Quadratic.make()
    loss = lambda p, phi: quadratic.objective()(p, phi, None, None, None)[0] + 0.1 * jnp.sum(jnp.cos(p) * phi.sum())
    stage = Stage(plain(loss), optax.sgd(0.05))
    solve = functools.partial(jaxopt.linear_solve.solve_cg, tol=1e-14, maxiter=100)

    @jaxopt.implicit_diff.custom_root(jax.grad(loss), solve=solve)
    def solver(init, phi):
        return stages.trainer(stage)(
            stages.start(stage, init), phi, jnp.zeros(50), jax.random.split(jax.random.key(0), 50)
        )[0].params

    fit = hypergrad.implicit(stage, solvers.from_jaxopt("cg", tol=1e-14, maxiter=100))
    ours = lambda phi: jnp.sum(
        jnp.sin(fit(stages.start(stage, jnp.zeros(4)), phi, jnp.zeros(50), jax.random.key(0))[0].params)
    )
    theirs = lambda phi: jnp.sum(jnp.sin(solver(jnp.zeros(4), phi)))
    np.testing.assert_allclose(jax.grad(ours)(jnp.ones(3)), jax.grad(theirs)(jnp.ones(3)), rtol=1e-12)


def test_three_stages_in_a_chain():
    """Pre-train, intermediate-train, fine-tune: implicit into implicit into unroll, against the unroll of everything."""
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(2, 3, 3))
    first = Stage(plain(lambda p, phi: 0.5 * jnp.sum((p - A @ jnp.tanh(phi)) ** 2)), optax.sgd(0.3))
    second = Stage(
        plain(lambda p, upstream: 0.5 * jnp.sum((p - B @ jnp.sin(upstream)) ** 2) + 0.05 * jnp.sum(p**4)),
        optax.sgd(0.2),
    )
    third = Stage(plain(lambda p, _: 0.5 * jnp.sum((p - 1.0) ** 2)), optax.sgd(0.1))

    def chain(rule_1, rule_2):
        fits = rule_1(first), rule_2(second), hypergrad.unroll(third)

        def loss(phi):
            one, _ = fits[0](stages.start(first, jnp.zeros(3)), phi, jnp.zeros(150), jax.random.key(0))
            two, _ = fits[1](stages.start(second, jnp.zeros(3)), one.params, jnp.zeros(300), jax.random.key(1))
            three, _ = fits[2](stages.start(third, two.params), None, jnp.zeros(3), jax.random.key(2))
            return jnp.sum(three.params**3)

        return jax.grad(loss)(jnp.array([0.3, -0.2, 0.5]))

    exact = functools.partial(hypergrad.implicit, solve=solvers.dense())
    expected = chain(hypergrad.unroll, hypergrad.unroll)
    for rules in ((exact, exact), (exact, hypergrad.unroll), (hypergrad.unroll, exact)):
        np.testing.assert_allclose(chain(*rules), expected, rtol=1e-9)


def test_a_window_is_a_truncated_shorter_run_at_a_place_that_the_key_draws_evenly():
    stage, steps, window = _stage(), 6, 2

    def found(key):
        def loss(params, context):
            state, info = hypergrad.windowed(stage, window)(stages.start(stage, params), context, jnp.zeros(steps), key)
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(state.params)), info

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(PARAMS, CONTEXT)

    truncated = functools.partial(hypergrad.truncate, last=window)
    (values, infos), gradients = jax.jit(jax.vmap(found))(jax.random.split(jax.random.key(1), 400))
    taken = jnp.isfinite(infos.loss).sum(axis=1)
    assert not infos.skipped.any()
    for length in range(window, steps + 1):
        some = np.flatnonzero(taken == length)
        assert abs(len(some) - 80) < 4 * np.sqrt(400 * 0.2 * 0.8)
        (value, info), gradient = _value_and_grad(truncated(stage), stage, length)(PARAMS, CONTEXT)
        of_first = jax.tree.map(lambda x, some=some: x[some[0]], (values, gradients))
        chex.assert_trees_all_close(of_first, (value, gradient), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(infos.loss[some[0]], np.append(info.loss, [np.nan] * (steps - length)), rtol=1e-13)
    whole = _value_and_grad(hypergrad.windowed(stage, 9), stage)(PARAMS, CONTEXT)
    chex.assert_trees_all_equal(whole, _value_and_grad(hypergrad.unroll(stage), stage)(PARAMS, CONTEXT))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_window_sees_its_own_batches_and_keys_whatever_the_loop(loop):
    """Steps add `batch + c noise(key)`: the end tells which were taken, the slope which were differentiated."""
    stage = Stage(
        lambda params, c, extra, batch, key: (-params * (batch + c * jax.random.uniform(key)), extra), optax.sgd(1.0)
    )
    fit, powers = hypergrad.windowed(stage, 2, loop=LOOPS[loop]), 2.0 ** np.arange(5)
    for seed in range(4):
        key = jax.random.key(seed)
        noise = np.array([jax.random.uniform(k) for k in jax.random.split(key, 5)])
        end = lambda c, key=key: fit(stages.start(stage, jnp.zeros(())), c, jnp.asarray(powers), key)[0].params
        value, slope = jax.value_and_grad(end)(0.0)
        taken = int(np.log2(float(value) + 1))
        assert value == powers[:taken].sum()
        np.testing.assert_allclose(slope, noise[taken - 2 : taken].sum(), rtol=1e-14)


@pytest.mark.parametrize("rule", ["unroll", "truncate"])
@pytest.mark.parametrize(
    "optimizer",
    [optax.adam(0.1), optax.rmsprop(0.1, eps_in_sqrt=False), optax.chain(optax.clip(1.0), optax.adamw(0.1))],
)
def test_optimizers_without_a_finite_derivative_are_refused(rule, optimizer):
    stage = Stage(OBJECTIVE, optimizer)
    with pytest.raises(ValueError, match=f"{rule}: .*eps_root"):
        RULES[rule](stage)


@pytest.mark.parametrize("rule", ["first_order", "implicit"])
def test_rules_that_do_not_differentiate_the_optimizer_take_any(rule):
    stage = Stage(OBJECTIVE, optax.adam(0.1))
    _, gradients = _value_and_grad(RULES[rule](stage), stage)(PARAMS, CONTEXT)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_the_refused_optimizer_really_gives_nan_and_the_cure_does_not():
    objective = plain(lambda p, c: c * p[0] * p[1])  # at p = (1, 0) the gradient of p[0] is zero

    def gradient(optimizer):
        stage = Stage(objective, optimizer)
        train = stages.trainer(stage)
        end = lambda c: train(
            stages.start(stage, jnp.array([1.0, 0.0])), c, jnp.zeros(2), jax.random.split(jax.random.key(0))
        )[0].params.sum()
        return jax.grad(end)(1.0)

    assert jnp.isnan(gradient(optax.adam(0.1))) and jnp.isfinite(gradient(optax.adam(0.1, eps_root=1e-8)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s: hypergrad.truncate(s, last=0), "last=0 must be at least 1"),
        (lambda s: hypergrad.windowed(s, window=0), "window=0 must be at least 1"),
        (lambda s: hypergrad.unroll(s, remat="some"), "remat: 'some' is not one of"),
        (lambda s: solvers.neumann(-1), "terms=-1"),
        (lambda s: solvers.neumann(1, step=0.0), "step=0.0"),
        (lambda s: solvers.neumann(1, step="best"), "step='best'"),
        (lambda s: solvers.cg(0), "max_steps=0"),
        (lambda s: solvers.cg(1, tol=-1.0), "tol=-1.0"),
        (lambda s: solvers.cg(1, damping=-1.0), "cg: damping=-1.0"),
        (lambda s: solvers.minres(0), "minres: max_steps=0"),
        (lambda s: solvers.minres(1, tol=-1.0), "minres: tol=-1.0"),
        (lambda s: solvers.nystrom(0, 0.1), "nystrom: rank=0"),
        (lambda s: solvers.nystrom(1, 0.0), "nystrom: damping=0.0 must be above 0"),
        (lambda s: solvers.relative(0.0), "share=0.0"),
        (lambda s: solvers.from_jaxopt("cg", ridge=-1.0), "from_jaxopt: ridge=-1.0"),
        (lambda s: hypergrad.implicit(s, batches=0), "implicit: batches=0"),
        (lambda s: solvers.from_jaxopt("magic"), "'magic' is not one of"),
    ],
)
def test_wrong_arguments_are_refused_with_the_bound(build, message):
    with pytest.raises(ValueError, match=message):
        build(Stage(OBJECTIVE, optax.sgd(0.1)))


@pytest.mark.parametrize("batches", [jnp.zeros(0), (jnp.zeros(3), jnp.zeros(4)), 1.0, {}])
def test_batches_without_one_common_step_axis_are_refused(batches):
    stage = Stage(OBJECTIVE, optax.sgd(0.1))
    with pytest.raises(ValueError, match="leading step axis"):
        hypergrad.unroll(stage)(stages.start(stage, PARAMS), CONTEXT, batches, jax.random.key(0))
