"""Rules that look at the end of training alone: against closed forms, finite differences and each other."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import SolveInfo, Stage, hypergrad, solvers, stages
from metapt.optimizers import from_context
from tests.oracles import Quadratic, plain

QUADRATIC = Quadratic.make()
OBJECTIVE = plain(lambda p, c: jnp.sum(jnp.cos(p["a"] * c) + 0.3 * p["a"] ** 2) + jnp.sum((p["b"] - c.sum()) ** 2))
PARAMS, CONTEXT = {"a": np.array([0.5, -1.0]), "b": np.array(0.3)}, np.array([0.7, 1.1])
STEEP = {"eps_root": 1e-8}
OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "schedule": optax.sgd(optax.cosine_decay_schedule(0.1, 20)),
    "adam": optax.adam(0.1, **STEEP),
    "adamw": optax.adamw(0.1, weight_decay=0.1, **STEEP),
    "nadamw": optax.nadamw(0.1, weight_decay=0.1, **STEEP),
    "adagrad": optax.adagrad(0.1),
    "adadelta": optax.adadelta(0.1),
    "rmsprop": optax.rmsprop(0.1),
    "yogi": optax.yogi(0.1),
    "lamb": optax.lamb(0.1, **STEEP),
    "adan": optax.adan(0.1, **STEEP),
    "amsgrad": optax.amsgrad(0.1, **STEEP),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1, **STEEP)),
    "decoupled_momentum": optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.2), optax.sgd(0.1)),
}


def _ends(stage, rule, params=PARAMS, steps=5):
    return lambda context: rule(stage)(stages.start(stage, params), context, jnp.zeros(steps), jax.random.key(0))[0]


def _pulled(rule, stage, v, **options):
    """v' d params / d context, by a rule."""
    ends = _ends(stage, rule, **options)
    return jax.jit(lambda c: jax.vjp(lambda c: ends(c).params, c)[1](v)[0])(CONTEXT)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fixed_point_pulls_back_through_the_optimizers_own_step(name):
    """With `x = (I - dU/dz)' v` for the solution, the rule gives dU/dc' x: against differences of one step of training."""
    stage = Stage(OBJECTIVE, OPTIMIZERS[name])
    v = {"a": jnp.array([0.3, -0.7]), "b": jnp.array(0.2)}

    @jax.jit
    def found_and_expected(context):
        product = lambda matvec, b: (matvec(b), SolveInfo.blank())
        ends = _ends(stage, lambda s: hypergrad.fixed_point(s, product))
        found = jax.vjp(lambda c: ends(c).params, context)[1](v)[0]
        end = ends(context)
        leaves, structure = jax.tree.flatten(end.opt_state)
        moments = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

        def U(params, values, c):
            whole = dict(enumerate(leaves)) | dict(zip(moments, values, strict=True))
            state = end._replace(params=params, opt_state=jax.tree.unflatten(structure, whole.values()))
            state, _ = stages.step(stage, c, state, (0.0, jax.random.key(0)))
            return state.params, [jax.tree.leaves(state.opt_state)[i] for i in moments]

        z, pull = (end.params, [leaves[i] for i in moments]), hypergrad.central_differences(1e-6)
        along_params = pull(lambda p: optax.tree.vdot(v, U(p, z[1], context)[0]))(z[0])
        along_values = jax.grad(lambda values: optax.tree.vdot(v, U(z[0], values, context)[0]))(z[1])
        x = optax.tree.sub(v, along_params), optax.tree.scale(-1.0, along_values)
        return found, pull(lambda c: optax.tree.vdot(x, U(*z, c)))(context)

    np.testing.assert_allclose(*found_and_expected(CONTEXT), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("terms", [0, 1, 7])
def test_fixed_point_of_gradient_descent_is_implicit_with_its_rate_as_the_step(terms):
    stage, v = Stage(OBJECTIVE, optax.sgd(0.1)), jax.tree.map(np.ones_like, PARAMS)
    found = _pulled(lambda s: hypergrad.fixed_point(s, solvers.neumann(terms, 1.0)), stage, v)
    expected = _pulled(lambda s: hypergrad.implicit(s, solvers.neumann(terms, 0.1)), stage, v)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


EXACT = {
    "dense": solvers.dense(),
    "gmres": solvers.from_jaxopt("gmres", tol=1e-14),
    "bicgstab": solvers.from_jaxopt("bicgstab", tol=1e-14, maxiter=100),
    "neumann": solvers.neumann(3000, 1.0),
}


@pytest.mark.parametrize("solve", EXACT)
def test_fixed_point_sees_momentum_and_decay_in_the_optimizer(solve):
    """At rest 10 H (theta - A phi) + decay theta = 0 with a momentum of 0.9: d theta / d phi = (10 H + decay)^-1 10 H A."""
    decay, H, A = 2.0, QUADRATIC.H, QUADRATIC.A
    optimizer = optax.chain(optax.trace(0.9), optax.add_decayed_weights(decay), optax.sgd(0.01))
    rule = lambda stage: hypergrad.fixed_point(stage._replace(optimizer=optimizer), EXACT[solve])
    stage = Stage(QUADRATIC.objective(), optimizer)
    end = lambda phi: QUADRATIC.v @ _ends(stage, rule, jnp.zeros(4), 30)(phi).params
    expected = QUADRATIC.v @ np.linalg.solve(10 * H + decay * np.eye(4), 10 * H @ A)
    np.testing.assert_allclose(jax.jit(jax.grad(end))(jnp.ones(3)), expected, rtol=1e-9)
    assert np.abs(expected - QUADRATIC.v @ A).max() > 0.01  # what implicit would say


@pytest.mark.parametrize("terms", [0, 3, 11])
def test_terms_of_a_fixed_point_with_momentum_are_unrolled_steps(terms):
    stage = Stage(QUADRATIC.objective(), optax.sgd(0.02, momentum=0.8))
    rules = {
        "terms": lambda s: hypergrad.fixed_point(s, solvers.neumann(terms, 1.0)),
        "steps": lambda s: hypergrad.truncate(s, last=terms + 1),
    }
    gradient = lambda rule: jax.grad(lambda phi: QUADRATIC.v @ _ends(stage, rule, jnp.zeros(4), 15)(phi).params)
    found = {name: jax.jit(gradient(rule))(jnp.ones(3)) for name, rule in rules.items()}
    np.testing.assert_allclose(found["terms"], found["steps"], rtol=1e-12)


def test_an_exact_fixed_point_of_adam_is_that_of_the_loss():
    """A preconditioner changes the way, not the place: the same as implicit, and a learning rate's derivative is zero."""
    optimizer = from_context(lambda c: optax.adam(c["rate"], eps_root=1e-8), {"rate": 0.1})
    objective = lambda p, c, extra, batch, key: QUADRATIC.objective()(p, c["phi"], extra, batch, key)
    context = {"phi": jnp.ones(3), "rate": 0.01}
    gradient = lambda rule: jax.jit(
        jax.grad(
            lambda c: QUADRATIC.v @ _ends(Stage(objective, optimizer), rule, QUADRATIC.A @ np.ones(3), 3)(c).params
        )
    )(context)
    found = gradient(lambda s: hypergrad.fixed_point(s, solvers.dense()))
    chex.assert_trees_all_close(found, {"phi": QUADRATIC.v @ QUADRATIC.A, "rate": 0.0}, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("optimizer", [optax.lion(0.1), optax.sign_sgd(0.1), optax.rprop(0.1)])
def test_optimizers_that_see_signs_only_are_refused(optimizer):
    with pytest.raises(ValueError, match=r"fixed_point: .*signs only.*use implicit"):
        hypergrad.fixed_point(Stage(OBJECTIVE, optimizer))
    with pytest.raises(ValueError, match=r"finite_difference: .*signs only.*use implicit"):
        hypergrad.finite_difference(Stage(OBJECTIVE, optimizer))


def test_a_finite_difference_is_implicit_without_terms_but_for_the_square_of_the_radius():
    stage, v = Stage(OBJECTIVE, optax.sgd(0.1)), jax.tree.map(np.ones_like, PARAMS)
    expected = _pulled(lambda s: hypergrad.implicit(s, solvers.neumann(0, 0.1)), stage, v)
    error = lambda radius: jnp.linalg.norm(
        _pulled(lambda s: hypergrad.finite_difference(s, radius), stage, v) - expected
    )
    assert error(1e-4) < 1e-8 * jnp.linalg.norm(expected)
    np.testing.assert_allclose(error(0.04) / error(0.02), 4.0, rtol=0.01)


@pytest.mark.parametrize(
    "rule",
    [lambda s: hypergrad.finite_difference(s, 1e-4), lambda s: hypergrad.fixed_point(s, solvers.neumann(0, 1.0))],
    ids=["finite_difference", "fixed_point"],
)
def test_without_terms_a_rule_is_one_more_step_of_adam(rule):
    """The optimizer's own factor: the derivative of one step from the end, learning rate included."""
    optimizer = from_context(lambda c: optax.adam(c["rate"], eps_root=1e-8), {"rate": 0.1})
    stage = Stage(lambda p, c, *rest: OBJECTIVE(p, c["c"], *rest), optimizer)
    context, v = {"c": CONTEXT, "rate": 0.05}, {"a": jnp.array([0.3, -0.7]), "b": jnp.array(0.2)}
    end = _ends(stage, hypergrad.unroll)(context)
    one_more = lambda c: stages.step(stage, c, end, (0.0, jax.random.key(0)))[0].params
    found = jax.vjp(lambda c: _ends(stage, rule)(c).params, context)[1](v)[0]
    chex.assert_trees_all_close(found, jax.vjp(one_more, context)[1](v)[0], rtol=1e-7)


@pytest.mark.parametrize("strength", [0.3, 5.0])
def test_a_proximal_end_moves_with_start_and_context_as_the_closed_form(strength):
    """theta* = (H + s)^-1 (H A phi + s theta_0)."""
    H, A = QUADRATIC.H, QUADRATIC.A
    stage, inverse = Stage(QUADRATIC.objective(), optax.sgd(0.05)), np.linalg.inv(H + strength * np.eye(4))

    @jax.jit
    def end(start, phi):
        fit = hypergrad.proximal(stage, strength, solvers.cg(20, tol=1e-14))
        return fit(stages.start(stage, start), phi, jnp.zeros(800), jax.random.key(0))[0].params

    start, phi = jnp.arange(4.0), jnp.ones(3)
    np.testing.assert_allclose(end(start, phi), inverse @ (H @ A @ phi + strength * start), rtol=1e-8)
    to_start, to_phi = jax.grad(lambda *at: QUADRATIC.v @ end(*at), argnums=(0, 1))(start, phi)
    np.testing.assert_allclose(to_start, strength * QUADRATIC.v @ inverse, rtol=1e-8)
    np.testing.assert_allclose(to_phi, QUADRATIC.v @ inverse @ H @ A, rtol=1e-8)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s: hypergrad.proximal(s, 0.0), "proximal: strength=0.0 must be above 0"),
        (lambda s: hypergrad.finite_difference(s, -1.0), "finite_difference: radius=-1.0 must be above 0"),
        (lambda s: hypergrad.fixed_point(s._replace(optimizer=optax.adam(0.1))), "fixed_point: .*eps_root"),
    ],
)
def test_wrong_arguments_are_refused_with_the_bound(build, message):
    with pytest.raises(ValueError, match=message):
        build(Stage(OBJECTIVE, optax.sgd(0.1)))


@pytest.mark.parametrize("rule", [hypergrad.fixed_point, hypergrad.finite_difference])
def test_a_report_with_a_start_keeps_its_structure(rule):
    """As `warm_solve` hands it over: these rules start every solve at zero, and say so."""
    stage, blank = Stage(OBJECTIVE, optax.sgd(0.1)), SolveInfo.blank(jax.tree.map(jnp.ones_like, PARAMS))
    state = stages.start(stage, PARAMS)
    end = lambda report: rule(stage)(state, CONTEXT, jnp.zeros(3), jax.random.key(0), report)[0].params["b"]
    report = jax.grad(end)(blank)
    chex.assert_trees_all_equal_shapes_and_dtypes(report, blank)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(report.solution))


@pytest.mark.parametrize("rule", [hypergrad.fixed_point, hypergrad.finite_difference])
def test_jit_equals_eager_and_vmap_equals_loop(rule):
    stage = Stage(OBJECTIVE, OPTIMIZERS["momentum"])
    gradient = jax.grad(lambda c: optax.tree.norm(_ends(stage, rule)(c).params, squared=True))
    eager = jnp.stack([gradient(context) for context in (CONTEXT, CONTEXT + 0.3)])
    np.testing.assert_allclose(jax.jit(gradient)(CONTEXT), eager[0], rtol=1e-9)
    mapped = jax.jit(jax.vmap(gradient))(jnp.stack([CONTEXT, CONTEXT + 0.3]))
    np.testing.assert_allclose(mapped, eager, rtol=1e-9)
