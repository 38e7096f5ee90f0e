"""Solvers on their own: against numpy and jax, and the truth of their reports."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapt import solvers
from tests.oracles import Quadratic


def _system(eigenvalues, seed=0):
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))
    A = Q @ np.diag(eigenvalues) @ Q.T
    return jnp.asarray(A), jnp.asarray(rng.normal(size=len(eigenvalues)))


SOLVERS = {
    "neumann": solvers.neumann(30),
    "cg": solvers.cg(3),
    "dense": solvers.dense(0.1),
    "jaxopt_gmres": solvers.from_jaxopt("gmres", maxiter=1, restart=3, tol=1e-14),
    "jaxopt_cg": solvers.from_jaxopt("cg", ridge=0.1, maxiter=3),
    "jaxopt_lu": solvers.from_jaxopt("lu", ridge=0.1),
}
DAMPING = {"dense": 0.1, "jaxopt_cg": 0.1, "jaxopt_lu": 0.1}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_residual_is_that_of_the_answer(name):
    A, b = _system([0.5, 1.0, 2.0, 3.0, 7.0])
    x, info = jax.jit(lambda b: SOLVERS[name](lambda v: A @ v, b))(b)
    damped = A + DAMPING.get(name, 0.0) * jnp.eye(5)
    np.testing.assert_allclose(
        info.residual, jnp.linalg.norm(damped @ x - b) / jnp.linalg.norm(b), rtol=1e-6, atol=1e-13
    )
    assert info.finite == 1 and info.negative_curvature == 0 and info.solves == 1


@pytest.mark.parametrize("name", ["neumann", "cg", "dense"])
def test_negative_curvature_is_reported(name):
    A, b = _system([-1.0, 1.0, 2.0])
    solve = {"neumann": solvers.neumann(5), "cg": solvers.cg(10), "dense": solvers.dense()}[name]
    _, info = solve(lambda v: A @ v, b)
    assert info.negative_curvature == 1 and info.finite == 1


def test_cg_stops_at_negative_curvature_with_the_iterate_before_it():
    A, b = jnp.diag(jnp.array([-1.0, 1.0])), jnp.array([1.0, 0.0])
    x, info = solvers.cg(10)(lambda v: A @ v, b)
    assert info.negative_curvature == 1 and (x == 0).all() and info.residual == 1


def test_cg_is_exact_in_as_many_steps_as_there_are_eigenvalues_and_equals_jax():
    A, b = _system([1.0, 1.0, 1.0, 4.0, 4.0, 9.0])
    x, _info = solvers.cg(3, tol=0.0)(lambda v: A @ v, b)
    np.testing.assert_allclose(x, jnp.linalg.solve(A, b), rtol=1e-12)
    theirs, _ = jax.scipy.sparse.linalg.cg(lambda v: A @ v, b, maxiter=2, tol=0.0)
    ours, _ = solvers.cg(2, tol=0.0)(lambda v: A @ v, b)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("terms", [0, 1, 4, 11])
def test_neumann_inverts_every_curvature_by_the_known_filter(terms):
    lam, step = jnp.array([0.1, 1.0, 3.0]), 0.4
    x, info = solvers.neumann(terms, step)(lambda v: lam * v, jnp.ones(3))
    np.testing.assert_allclose(x, (1 - (1 - step * lam) ** (terms + 1)) / lam, rtol=1e-12)
    expected = jnp.linalg.norm((1 - step * lam) ** (terms + 1)) / jnp.sqrt(3.0)
    np.testing.assert_allclose(info.residual, expected, rtol=1e-12)


def test_automatic_step_converges_whatever_the_scale():
    for scale in (1e-6, 1.0, 1e6):
        A, b = _system(scale * np.array([0.3, 1.0, 2.0, 5.0]))
        x, info = solvers.neumann(400)(lambda v, A=A: A @ v, b)
        np.testing.assert_allclose(x, jnp.linalg.solve(A, b), rtol=1e-8)
        assert 0 < info.contraction < 1


def test_largest_eigenvalue_approaches_from_below():
    A, b = _system([1.0, -2.0, 5.0, 9.0, 10.0])
    estimates = [float(solvers.largest_eigenvalue(lambda v: A @ v, b, steps)) for steps in (3, 10, 50, 400)]
    assert estimates == sorted(estimates) and estimates[-1] <= 10.0 + 1e-9
    np.testing.assert_allclose(estimates[-1], 10.0, rtol=1e-8)
    assert estimates[1] > 10.0 / 2  # what a step of 1 / estimate needs to converge


def test_a_non_finite_answer_is_reported_not_hidden():
    A, b = _system([1.0, 2.0])
    for solve in (solvers.neumann(3), solvers.dense(), solvers.cg(3)):
        _x, info = solve(lambda v: A @ v, b * jnp.nan)
        assert info.finite == 0 or not jnp.isfinite(info.residual)


def test_pytrees_and_dtypes_are_kept():
    quadratic = Quadratic.make()
    H = jnp.asarray(quadratic.H, jnp.float32)
    b = {"one": jnp.ones(1, jnp.float32), "rest": jnp.ones((3, 1), jnp.float32)}
    matvec = lambda v: (lambda u: {"one": u[:1], "rest": u[1:, None]})(H @ jnp.concatenate([v["one"], v["rest"][:, 0]]))
    for solve in (solvers.neumann(5), solvers.cg(5), solvers.dense(), solvers.from_jaxopt("gmres")):
        x, info = solve(matvec, b)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), x) == jax.tree.map(lambda a: (a.shape, a.dtype), b)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(info))
