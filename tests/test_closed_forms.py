"""Every rule and solver against the closed forms, in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import SolveInfo, hypergrad, solvers, stages
from metapt.types import Stage
from tests.oracles import A_STEP, PROBLEMS, K, Quadratic, hypergradient, plain, rotation, task_weights

EXACT_SOLVERS = {
    "dense": solvers.dense(),
    "cg": solvers.cg(max_steps=50, tol=1e-14),
    "minres": solvers.minres(max_steps=50, tol=1e-14),
    "nystrom": solvers.nystrom(rank=50, damping=1e-13),
    "neumann_long": solvers.neumann(terms=2000),
    "jaxopt_cg": solvers.from_jaxopt("cg", tol=1e-14, maxiter=100),
    "jaxopt_normal_cg": solvers.from_jaxopt("normal_cg", tol=1e-14, maxiter=100),
    "jaxopt_gmres": solvers.from_jaxopt("gmres", tol=1e-14),
    "jaxopt_bicgstab": solvers.from_jaxopt("bicgstab", tol=1e-14, maxiter=100),
}
PRETRAIN_RULES = {
    f"implicit_{name}": lambda s, solve=solve: hypergrad.implicit(s, solve) for name, solve in EXACT_SOLVERS.items()
} | {
    "unroll": hypergrad.unroll,
    "truncate_all": lambda s: hypergrad.truncate(s, last=10_000),
    "truncate_many": lambda s: hypergrad.truncate(s, last=380),
}
FINETUNE_RULES = {
    "full": hypergrad.unroll,
    "none": lambda s: hypergrad.unroll(s, remat="none"),
    "nested": lambda s: hypergrad.unroll(s, remat="nested"),
    "unrolled": lambda s: hypergrad.unroll(s, loop=stages.loop.unrolled),
    "host": lambda s: hypergrad.unroll(s, loop=stages.loop.host),
    "truncate": lambda s: hypergrad.truncate(s, last=K),
}


@pytest.mark.parametrize("rule", PRETRAIN_RULES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_pretraining_rule_equals_closed_form(problem, rule):
    problem = PROBLEMS[problem]()
    found = hypergradient(problem, PRETRAIN_RULES[rule], hypergrad.unroll)
    np.testing.assert_allclose(found, problem.hypergradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", FINETUNE_RULES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_finetuning_rule_equals_closed_form(problem, rule):
    problem = PROBLEMS[problem]()
    found = hypergradient(problem, PRETRAIN_RULES["implicit_dense"], FINETUNE_RULES[rule])
    np.testing.assert_allclose(found, problem.hypergradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("J", [0, 1, 5, 50])
@pytest.mark.parametrize("start", [0.0, 3.0])
def test_neumann_terms_are_unrolled_steps_on_a_quadratic(J, start):
    """T1: J terms = J + 1 steps of gradient descent, from any start, truncated or not."""
    quadratic, eta = Quadratic.make(), 0.05
    expected = quadratic.truncated(eta, J + 1)
    neumann = quadratic.gradient(lambda s: hypergrad.implicit(s, solvers.neumann(J, eta)), eta, 7, start)
    unrolled = quadratic.gradient(hypergrad.unroll, eta, J + 1, start)
    truncated = quadratic.gradient(lambda s: hypergrad.truncate(s, last=J + 1), eta, J + 20, start)
    for found in (neumann, unrolled, truncated):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("J", [0, 3, 20])
def test_neumann_error_in_two_stages_is_the_known_factor(J):
    """T2: with J terms the hypergradient is the exact one times 1 - (1 - eta W)^(J + 1)."""
    problem, eta = task_weights(), 0.1
    W = float((2 * jax.nn.sigmoid(problem.phi)).sum())
    found = hypergradient(problem, lambda s: hypergrad.implicit(s, solvers.neumann(J, eta)), hypergrad.unroll)
    np.testing.assert_allclose(found, problem.hypergradient * (1 - (1 - eta * W) ** (J + 1)), rtol=1e-10)


def test_neumann_beyond_the_stable_step_diverges_and_says_so():
    quadratic = Quadratic.make()
    eta = 2.2 / np.linalg.eigvalsh(quadratic.H)[-1]
    _x, info = solvers.neumann(200, eta)(lambda v: quadratic.H @ v, jnp.asarray(quadratic.v))
    assert info.contraction > 1 and info.residual > 1e3
    np.testing.assert_allclose(info.contraction, 1.2, rtol=1e-6)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_damped_solvers_agree(damping):
    quadratic = Quadratic.make()
    expected = np.linalg.solve(quadratic.H + damping * np.eye(4), quadratic.v)
    for solve in (
        solvers.dense(damping),
        solvers.cg(20, damping, 1e-14),
        solvers.minres(20, damping, 1e-14),
        solvers.from_jaxopt("cg", ridge=damping, tol=1e-14),
        solvers.from_jaxopt("gmres", ridge=damping, tol=1e-14),
        solvers.from_jaxopt("bicgstab", ridge=damping, tol=1e-14),
    ):
        x, info = solve(lambda v: quadratic.H @ v, jnp.asarray(quadratic.v))
        np.testing.assert_allclose(x, expected, rtol=1e-9)
        assert info.residual < 1e-9


def test_head_only_unroll_sees_both_paths():
    """T6: the encoder acts on the validation features and, through the training features, on the head."""
    h0, A, B, theta, a = 0.7, 1.5, -0.4, 2.0, A_STEP
    stage = Stage(plain(lambda h, theta: 0.5 * (h * theta - A) ** 2), optax.sgd(a))
    fit = hypergrad.unroll(stage)

    def loss(theta):
        tuned, _ = fit(stages.start(stage, jnp.array(h0)), theta, jnp.zeros(1), jax.random.key(0))
        return 0.5 * (tuned.params * theta - B) ** 2

    h1 = h0 - a * theta * (h0 * theta - A)
    expected = (h1 * theta - B) * (h1 + theta * (-a) * (2 * h0 * theta - A))
    np.testing.assert_allclose(jax.grad(loss)(theta), expected, rtol=1e-12)
    assert abs(expected - (h1 * theta - B) * h1) > 0.1  # the direct path alone is another number


def test_descent_turns_to_the_right_angle():
    """T5: gradient descent on phi reaches mu from anywhere but the opposite side."""
    for phi in (-1.2, 0.0, 3.0):
        for _ in range(60):
            phi -= 0.3 * float(hypergradient(rotation(phi), PRETRAIN_RULES["implicit_cg"], hypergrad.unroll, 100))
        assert abs(phi - 1.3) < 1e-3


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_a_descent_step_lowers_the_validation_loss(name):
    problem = PROBLEMS[name]()
    gradient = hypergradient(problem, hypergrad.unroll, hypergrad.unroll)
    stepped = problem._replace(phi=problem.phi - 1e-2 * gradient)

    def value(problem):
        stage, fine = Stage(problem.pretrain, optax.sgd(problem.rate)), Stage(problem.finetune, optax.sgd(A_STEP))
        key = jax.random.key(0)
        end, _ = hypergrad.unroll(stage)(stages.start(stage, problem.start), problem.phi, jnp.zeros(400), key)
        return problem.validate(
            hypergrad.unroll(fine)(stages.start(fine, end.params), None, jnp.zeros(K), key)[0].params
        )

    assert value(stepped) < value(problem)


def test_meta_parameters_that_pretraining_ignores_get_an_exact_zero():
    quadratic = Quadratic.make()
    stage = Stage(
        lambda p, context, extra, batch, key: quadratic.objective()(p, context["used"], extra, batch, key),
        optax.sgd(0.05),
    )
    for fit in (hypergrad.unroll(stage), hypergrad.implicit(stage, solvers.cg(10))):
        end = lambda c, fit=fit: (
            quadratic.v @ fit(stages.start(stage, jnp.zeros(4)), c, jnp.zeros(5), jax.random.key(0))[0].params
        )
        gradient = jax.grad(end)({"used": jnp.ones(3), "unused": jnp.ones(2)})
        assert (gradient["unused"] == 0).all() and (gradient["used"] != 0).all()


def test_report_travels_as_the_cotangent_of_report():
    quadratic = Quadratic.make()
    stage = Stage(quadratic.objective(), optax.sgd(0.05))
    fit = hypergrad.implicit(stage, solvers.neumann(5, 0.05))
    end = lambda phi, report: (
        quadratic.v @ fit(stages.start(stage, jnp.zeros(4)), phi, jnp.zeros(5), jax.random.key(0), report)[0].params
    )
    _, report = jax.jit(jax.grad(end, argnums=(0, 1)))(jnp.ones(3), SolveInfo.blank())
    _, expected = solvers.neumann(5, 0.05)(lambda u: quadratic.H @ u, -jnp.asarray(quadratic.v))
    chex.assert_trees_all_close(report._replace(agreement=expected.agreement), expected, rtol=1e-12)
    assert report.solves == 1 and report.finite == 1 and report.negative_curvature == 0
