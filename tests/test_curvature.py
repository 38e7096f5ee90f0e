"""What stands for the Hessian: Gauss-Newton, means over batches, and the ways down where jax has no second derivative."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import SolveInfo, Stage, hypergrad, meta_pretraining, objectives, run, solvers, stages, updates
from metapt.hypergrad.curvature import hessian_product, mixed_product
from metapt.types import Batches
from tests.oracles import A_STEP, PROBLEMS, K, Quadratic, plain

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3, 6, 4)), RNG.integers(0, 3, size=(3, 6))  # three batches
W = {"hidden": RNG.normal(size=(4, 5)), "out": RNG.normal(size=(5, 3))}
V = {"hidden": RNG.normal(size=(4, 5)), "out": RNG.normal(size=(5, 3))}
PREDICT = objectives.stateless(lambda params, context, x: jnp.tanh(x @ params["hidden"]) @ params["out"])
KEY = jax.random.key(0)


def _matrix(objective, params, batch, context=None):
    """The Hessian of an objective as a matrix, by forward over reverse."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return jax.jit(jax.hessian(lambda p: objective(unravel(p), context, None, batch, KEY)[0]))(flat)


def _seen(stage, **options):
    """The matrix that the implicit rule gives its solver, and the hypergradient."""
    seen = []

    def solve(matvec, b):
        flat, unravel = jax.flatten_util.ravel_pytree(b)
        product = lambda v: jax.flatten_util.ravel_pytree(matvec(unravel(v)))[0]
        seen.append(jax.vmap(product)(jnp.eye(flat.size)))
        return solvers.dense(0.5)(matvec, b)

    fit = hypergrad.implicit(stage, solve, **options)

    def end(context):
        state, _ = fit(stages.start(stage, W), context, (X, Y), KEY)
        return optax.tree.vdot(state.params, V), seen[0] if seen else None

    gradient = jax.jit(lambda context: (jax.grad(lambda c: end(c)[0])(context), seen.pop()))
    return gradient(jnp.ones(4))


def _least_squares(predict):
    def objective(params, context, extra, batch, key):
        x, y = batch
        output, extra = predict(params, context, extra, x, key)
        return 0.5 * jnp.mean((output - jax.nn.one_hot(y, 3)) ** 2), extra

    return objective


def test_gauss_newton_is_the_hessian_on_linear_least_squares():
    linear = objectives.stateless(lambda params, context, x: x @ params)
    w, batch = jnp.asarray(RNG.normal(size=(4, 3))), (X[0], Y[0])
    exact = _matrix(_least_squares(linear), w, batch)
    np.testing.assert_allclose(
        _matrix(_least_squares(hypergrad.linearized(linear)), w, batch), exact, rtol=1e-10, atol=1e-14
    )
    nonlinear, newton = (_matrix(_least_squares(p), W, batch) for p in (PREDICT, hypergrad.linearized(PREDICT)))
    assert jnp.abs(nonlinear - newton).max() > 0.01  # on a network they differ
    assert jnp.linalg.eigvalsh(newton)[0] > -1e-12 > jnp.linalg.eigvalsh(nonlinear)[0]


def test_gauss_newton_is_the_fisher_matrix_on_cross_entropy():
    flat, unravel = jax.flatten_util.ravel_pytree(W)
    log_p = lambda flat: jax.nn.log_softmax(PREDICT(unravel(flat), None, None, X[0], None)[0])
    scores, p = jax.jit(jax.jacobian(log_p))(flat), jnp.exp(log_p(flat))  # [B, C, n], [B, C]
    fisher = jnp.einsum("bc,bci,bcj->ij", p, scores, scores) / len(p)
    newton = _matrix(objectives.cross_entropy(hypergrad.linearized(PREDICT)), W, (X[0], Y[0]))
    np.testing.assert_allclose(newton, fisher, rtol=1e-9, atol=1e-13)
    assert jnp.linalg.eigvalsh(newton)[0] > -1e-12


def test_a_linearized_model_has_the_same_value_gradient_and_extra():
    counted = lambda params, context, extra, x, key: (PREDICT(params, context, extra, x, key)[0], extra + 1)
    found, expected = (
        jax.value_and_grad(objectives.cross_entropy(p), has_aux=True)(W, None, 0, (X[0], Y[0]), KEY)
        for p in (hypergrad.linearized(counted), counted)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), found, expected)


WEIGHED = objectives.stateless(
    lambda params, context, x: jnp.tanh((x * context) @ params["hidden"]) @ params["out"]
)  # the context scales the inputs


def test_the_rule_uses_the_curvature_it_is_given_and_the_exact_mixed_derivative():
    stage = Stage(objectives.cross_entropy(WEIGHED), optax.sgd(0.1))
    newton_objective = objectives.cross_entropy(hypergrad.linearized(WEIGHED))
    gradient, H = _seen(stage, curvature=newton_objective)
    end, _ = hypergrad.unroll(stage)(stages.start(stage, W), jnp.ones(4), (X, Y), KEY)
    batch, params = (X[-1], Y[-1]), end.params
    newton = _matrix(newton_objective, params, batch, jnp.ones(4))
    np.testing.assert_allclose(H, newton, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, _by_hand(stage, params, newton, [batch]), rtol=1e-9)


@pytest.mark.parametrize("count", [2, 3])
def test_batches_are_averaged(count):
    stage = Stage(objectives.cross_entropy(WEIGHED), optax.sgd(0.1))
    gradient, H = _seen(stage, batches=count)
    end, _ = hypergrad.unroll(stage)(stages.start(stage, W), jnp.ones(4), (X, Y), KEY)
    last = list(zip(X, Y, strict=True))[-count:]
    mean = sum(_matrix(stage.objective, end.params, batch, jnp.ones(4)) for batch in last) / count
    np.testing.assert_allclose(H, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, _by_hand(stage, end.params, mean, last), rtol=1e-9)


def test_every_averaged_batch_keeps_the_key_of_its_own_step():
    noisy = Stage(lambda p, c, extra, batch, key: (0.5 * jax.random.uniform(key) * (p - c) ** 2, extra), optax.sgd(0.1))
    fit = hypergrad.implicit(noisy, lambda matvec, b: (matvec(1.0), SolveInfo.blank()), batches=2)  # x = H
    end = lambda c: fit(stages.start(noisy, jnp.array(1.0)), c, jnp.zeros(3), KEY)[0].params
    mean = jnp.mean(jax.vmap(jax.random.uniform)(jax.random.split(KEY, 3)[1:]))
    np.testing.assert_allclose(jax.grad(end)(2.0), -(mean**2), rtol=1e-12)  # x' M, and M = -H


def test_more_batches_than_steps_are_refused():
    stage = Stage(objectives.cross_entropy(WEIGHED), optax.sgd(0.1))
    with pytest.raises(ValueError, match="batches=4 but the run has 3 steps"):
        hypergrad.implicit(stage, batches=4)(stages.start(stage, W), jnp.ones(4), (X, Y), KEY)


def _by_hand(stage, params, H, batches):
    """- ((H + I/2)^-1 v)' M with matrices."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def mean(flat, context):
        return sum(stage.objective(unravel(flat), context, None, batch, KEY)[0] for batch in batches) / len(batches)

    M = jax.jit(jax.jacobian(jax.grad(mean), argnums=1))(flat, jnp.ones(4))
    v, _ = jax.flatten_util.ravel_pytree(V)
    return -jnp.linalg.solve(H + 0.5 * jnp.eye(flat.size), v) @ M


def _custom(forward, slope):
    """tanh with a derivative of its own, `slope(x)`."""
    f = jax.custom_vjp(forward)
    f.defvjp(lambda x: (forward(x), x), lambda x, g: (g * slope(x),))
    return f


def _exact_slope(x):
    return 1 - jnp.tanh(x) ** 2


def _callback_slope(x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda x: 1 - np.tanh(x) ** 2, shape, x, vmap_method="expand_dims")


TANH = {
    "plain": jnp.tanh,
    "custom_vjp": _custom(jnp.tanh, _exact_slope),
    "custom_vjp_of_custom_vjp": _custom(jnp.tanh, _custom(_exact_slope, lambda x: -2 * jnp.tanh(x) * _exact_slope(x))),
    "callback": _custom(jnp.tanh, _callback_slope),
}
WARNINGS = {  # (Hessian products, mixed derivatives): how many steps down
    "plain": (0, 0),
    "custom_vjp": (0, 1),
    "custom_vjp_of_custom_vjp": (1, 1),
    "callback": (2, 2),
}


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("name", TANH)
def test_the_ways_down_give_the_same_hypergradient_and_say_so(name, jit, caplog):
    def gradient(tanh):
        predict = objectives.stateless(
            lambda params, context, x: tanh((x * context) @ params["hidden"]) @ params["out"]
        )
        stage = Stage(objectives.cross_entropy(predict), optax.sgd(0.1))
        fit = hypergrad.implicit(stage, solvers.cg(4, damping=0.5))
        end = lambda c: optax.tree.vdot(fit(stages.start(stage, W), c, (X, Y), KEY)[0].params, V)
        return (jax.jit(jax.grad(end)) if jit else jax.grad(end))(jnp.ones(4))

    expected = gradient(jnp.tanh)
    with caplog.at_level(logging.WARNING, logger="metapt"):
        found = gradient(TANH[name])
    np.testing.assert_allclose(found, expected, rtol=1e-6 if name == "callback" else 1e-12)
    said = {record.getMessage() for record in caplog.records}  # the cheap rule beside it says the same
    counts = tuple(sum(line.startswith(what) for line in said) for what in ("Hessian products", "mixed derivatives"))
    assert counts == WARNINGS[name], said
    assert all("does not work on this model" in line and "\n" not in line for line in said)


def test_differences_do_not_depend_on_the_length_of_the_direction_and_stand_a_zero():
    loss = lambda p, c: jnp.sum(TANH["callback"](p * c) ** 2)
    exact = lambda p, c: jnp.sum(jnp.tanh(p * c) ** 2)
    p, c, v = jnp.array([0.1, -2.0, 0.3]), jnp.array([1.0, 0.5, 2.0]), jnp.array([1.0, -1.0, 3.0])
    product, true = hessian_product(loss, p, c), hessian_product(exact, p, c)
    for scale in (1e-8, 1.0, 1e8):
        np.testing.assert_allclose(product(scale * v), true(scale * v), rtol=1e-7)
        np.testing.assert_allclose(
            mixed_product(loss, p, c, scale * v), mixed_product(exact, p, c, scale * v), rtol=1e-7
        )
    assert (product(0 * v) == 0).all() and (mixed_product(loss, p, c, 0 * v) == 0).all()


def test_an_error_of_the_objective_itself_is_raised():
    def wrong(params, context, extra, batch, key):
        raise TypeError("mine")

    stage = Stage(plain(lambda p, c: 0.5 * jnp.sum((p - c) ** 2)), optax.sgd(0.1))
    fit = hypergrad.implicit(stage, curvature=wrong)
    end = lambda c: fit(stages.start(stage, jnp.ones(2)), c, jnp.zeros(3), KEY)[0].params.sum()
    with pytest.raises(TypeError, match="mine"):
        jax.grad(end)(jnp.ones(2))


def test_integers_in_the_context_have_no_derivative_whichever_way_is_taken():
    context = {"scale": jnp.ones(3), "labels": jnp.arange(3)}
    for tanh in TANH.values():
        loss = lambda p, c, tanh=tanh: jnp.sum(tanh(p * c["scale"]) * c["labels"])
        found = mixed_product(loss, jnp.full(3, 0.5), context, jnp.ones(3))
        assert found["labels"].dtype == jax.dtypes.float0 and jnp.abs(found["scale"][1:]).min() > 0.1


def _residuals(solve, warm_solve, steps=4):
    """Of the backward solves of outer steps that change nothing: phi rests, and so does pre-training."""
    problem = PROBLEMS["ridge"]()
    pre, fine = Stage(problem.pretrain, optax.sgd(problem.rate)), Stage(problem.finetune, optax.sgd(A_STEP))
    algorithm = meta_pretraining(
        hypergrad.implicit(pre, solve),
        hypergrad.unroll(fine),
        lambda params, context, extra, batch, key: (problem.validate(params), extra),
        updates.by_gradient(optax.sgd(0.0)),
        transfer=lambda pretrained, finetune, meta: (finetune._replace(params=pretrained.params), None),
        warm_solve=warm_solve,
    )
    rest, _ = stages.trainer(pre)(
        stages.start(pre, problem.start), problem.phi, jnp.zeros(2000), jax.random.split(KEY, 2000)
    )
    state = algorithm.init(problem.phi, rest, stages.start(fine, problem.start))
    draw = lambda key: Batches(jnp.zeros(1), jnp.zeros(K), jnp.zeros(()))
    _, infos = jax.jit(lambda state: run(algorithm.step, draw, state, KEY, jnp.arange(steps)))(state)
    assert infos.report.solution is None
    return infos.report.residual


def test_a_warm_solve_goes_on_where_the_last_outer_step_left_it():
    """n outer steps of J + 1 Neumann terms are one solve of n (J + 1) terms."""
    warm = _residuals(solvers.neumann(1, step=0.2), warm_solve=True)
    alone = [_residuals(solvers.neumann(2 * n - 1, step=0.2), warm_solve=False, steps=1)[0] for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(warm, alone, rtol=1e-8)
    cold = _residuals(solvers.cg(1), warm_solve=False)
    warm = _residuals(solvers.cg(1), warm_solve=True)
    assert (cold == cold[0]).all() and warm[0] == cold[0] and (warm[1:] < 0.9 * warm[:-1]).all()


def test_the_solution_comes_back_where_the_start_went_in():
    quadratic = Quadratic.make()
    stage = Stage(quadratic.objective(), optax.sgd(0.05))
    fit = hypergrad.implicit(stage, solvers.cg(20, tol=1e-14))
    state = stages.start(stage, jnp.zeros(4))
    end = lambda phi, report: quadratic.v @ fit(state, phi, jnp.zeros(5), KEY, report)[0].params
    gradient = jax.jit(jax.grad(end, argnums=(0, 1)))
    _, report = gradient(jnp.ones(3), SolveInfo.blank(jnp.zeros(4)))
    np.testing.assert_allclose(report.solution, -np.linalg.solve(quadratic.H, quadratic.v), rtol=1e-9)
    assert gradient(jnp.ones(3), SolveInfo.blank())[1].solution is None
