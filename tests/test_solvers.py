"""Solvers on their own: against numpy and jax, and the truth of their reports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

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
    "minres": solvers.minres(3),
    "nystrom": solvers.nystrom(3, damping=0.1),
    "jaxopt_gmres": solvers.from_jaxopt("gmres", maxiter=1, restart=3, tol=1e-14),
    "jaxopt_cg": solvers.from_jaxopt("cg", ridge=0.1, maxiter=3),
    "jaxopt_bicgstab": solvers.from_jaxopt("bicgstab", maxiter=2),
    "jaxopt_lu": solvers.from_jaxopt("lu", ridge=0.1),
}
DAMPING = {"dense": 0.1, "nystrom": 0.1, "jaxopt_cg": 0.1, "jaxopt_lu": 0.1}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_residual_is_that_of_the_answer(name):
    A, b = _system([0.5, 1.0, 2.0, 3.0, 7.0])
    x, info = jax.jit(lambda b: SOLVERS[name](lambda v: A @ v, b))(b)
    damped = A + DAMPING.get(name, 0.0) * jnp.eye(5)
    np.testing.assert_allclose(
        info.residual, jnp.linalg.norm(damped @ x - b) / jnp.linalg.norm(b), rtol=1e-6, atol=1e-13
    )
    assert info.finite == 1 and info.negative_curvature == 0 and info.solves == 1


@pytest.mark.parametrize("name", ["neumann", "cg", "dense", "minres", "nystrom"])
def test_negative_curvature_is_reported(name):
    A, b = _system([-1.0, 1.0, 2.0])
    solve = {
        "neumann": solvers.neumann(5),
        "cg": solvers.cg(10),
        "dense": solvers.dense(),
        "minres": solvers.minres(10),
        "nystrom": solvers.nystrom(3, damping=0.1),
    }[name]
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
    assert jnp.isnan(info.contraction) == (terms == 0)  # nothing iterates, so nothing diverges


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
    for solve in (solvers.neumann(3), solvers.dense(), solvers.cg(3), solvers.minres(3), solvers.nystrom(1, 0.1)):
        _x, info = jax.jit(functools.partial(solve, lambda v: A @ v))(b * jnp.nan)
        assert info.finite == 0 or not jnp.isfinite(info.residual)


def test_pytrees_and_dtypes_are_kept():
    quadratic = Quadratic.make()
    H = jnp.asarray(quadratic.H, jnp.float32)
    b = {"one": jnp.ones(1, jnp.float32), "rest": jnp.ones((3, 1), jnp.float32)}
    matvec = lambda v: (lambda u: {"one": u[:1], "rest": u[1:, None]})(H @ jnp.concatenate([v["one"], v["rest"][:, 0]]))
    for solve in (solvers.neumann(5), solvers.cg(5), solvers.dense(), solvers.minres(5), solvers.nystrom(2, 0.1)):
        x, info = jax.jit(functools.partial(solve, matvec))(b)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), x) == jax.tree.map(lambda a: (a.shape, a.dtype), b)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(info))


def test_minres_solves_indefinite_systems_in_as_many_steps_as_there_are_eigenvalues_and_equals_scipy():
    A, b = _system([-5.0, -0.5, 0.3, 2.0, 2.0, 7.0])
    matvec = lambda v: A @ v
    x, info = jax.jit(lambda b: solvers.minres(5)(matvec, b))(b)
    np.testing.assert_allclose(x, jnp.linalg.solve(A, b), rtol=1e-10)
    np.testing.assert_allclose(x, solvers.dense()(matvec, b)[0], rtol=1e-10)
    assert info.residual < 1e-10 and info.negative_curvature == 1
    residuals = []
    for steps in (1, 3, 4):
        x, info = jax.jit(lambda b, steps=steps: solvers.minres(steps)(matvec, b))(b)
        theirs, _ = scipy.sparse.linalg.minres(np.asarray(A), np.asarray(b), maxiter=steps, rtol=1e-15)
        np.testing.assert_allclose(x, theirs, rtol=1e-8)
        np.testing.assert_allclose(info.contraction, info.residual ** (1 / steps), rtol=1e-6)
        residuals.append(float(info.residual))
    assert residuals == sorted(residuals, reverse=True)


def test_minres_reports_negative_curvature_of_the_krylov_space_only():
    A, b = _system([1.0, 2.0, 3.0])
    assert solvers.minres(3)(lambda v: A @ v, b)[1].negative_curvature == 0
    indefinite = jnp.diag(jnp.array([-1.0, 1.0, 2.0]))
    assert solvers.minres(5)(lambda v: indefinite @ v, jnp.array([0.0, 1.0, 1.0]))[1].negative_curvature == 0
    assert solvers.minres(5)(lambda v: indefinite @ v, jnp.array([0.1, 1.0, 1.0]))[1].negative_curvature == 1


def test_minres_stops_at_a_least_squares_solution_if_there_is_no_other():
    A, b = jnp.diag(jnp.array([1.0, -2.0, 0.0])), jnp.ones(3)
    x, info = solvers.minres(50)(lambda v: A @ v, b)
    np.testing.assert_allclose(A @ x, [1.0, 1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(info.residual, 3**-0.5, rtol=1e-9)
    assert info.finite == 1 and jnp.abs(x).max() < 10


def test_nystrom_at_full_rank_is_dense_and_below_it_is_exact_on_low_rank():
    @functools.partial(jax.jit, static_argnums=0)
    def error(rank, A, b, rho):
        x, info = solvers.nystrom(rank, lambda matvec, like: rho)(lambda v: A @ v, b)
        exact, _ = solvers.dense(lambda matvec, like: rho)(lambda v: A @ v, b)
        return jnp.linalg.norm(x - exact) / jnp.linalg.norm(exact), info

    for eigenvalues in ([0.2, 1.0, 3.0, 8.0], [-2.0, 0.2, 1.0, 5.0], [0.0, 0.0, 1.0, 4.0]):
        for rho in (1e-6, 0.05, 1.0):
            found, info = error(9, *_system(eigenvalues), rho)
            assert found < 1e-8 and info.residual < 1e-7 and jnp.isnan(info.contraction)
    assert error(9, *_system([0.2, 1.0, 3.0, 8.0]), 1e-12)[0] < 1e-8  # nothing is left outside to be divided by rho
    low_rank = _system([0.0] * 12 + [1.0, 4.0, 9.0])
    assert error(3, *low_rank, 0.1)[0] < 1e-9 and error(5, *low_rank, 0.1)[0] < 1e-9
    assert error(2, *low_rank, 0.1)[1].residual > 0.1


def test_nystrom_is_a_symmetric_operator():
    A, _ = _system([0.5, 1.0, 2.0, 3.0, 7.0])
    inverse = jax.jit(jax.vmap(lambda b: solvers.nystrom(2, 0.3)(lambda v: A @ v, b)[0]))(jnp.eye(5))
    np.testing.assert_allclose(inverse, inverse.T, rtol=1e-10)


RELATIVE = {
    "cg": lambda damping: solvers.cg(20, damping, 1e-14),
    "minres": lambda damping: solvers.minres(20, damping, 1e-14),
    "dense": solvers.dense,
    "nystrom": lambda damping: solvers.nystrom(5, damping),
    "jaxopt_gmres": lambda damping: solvers.from_jaxopt("gmres", ridge=damping, tol=1e-14),
    "jaxopt_bicgstab": lambda damping: solvers.from_jaxopt("bicgstab", ridge=damping, tol=1e-14),
}


@pytest.mark.parametrize("name", RELATIVE)
def test_relative_damping_is_a_share_of_the_largest_eigenvalue_whatever_the_scale(name):
    A, b = _system([0.01, 1.0, 2.0, 3.0, 7.0])
    solve = jax.jit(lambda scale: RELATIVE[name](solvers.relative(0.02))(lambda v: scale * (A @ v), scale * b)[0])
    rho = 0.02 * solvers.largest_eigenvalue(lambda v: A @ v, b)
    for scale in (1.0, 1e-5, 1e4):
        np.testing.assert_allclose(solve(scale), jnp.linalg.solve(A + rho * jnp.eye(5), b), rtol=1e-8)
    assert 0.02 * 6 < rho < 0.02 * 7


def test_normal_equations_are_damped_relative_to_their_own_largest_eigenvalue():
    A, b = _system([-3.0, 1.0, 2.0])
    x, _ = solvers.from_jaxopt("normal_cg", ridge=solvers.relative(0.1), tol=1e-14)(lambda v: A @ v, b)
    rho = 0.1 * solvers.largest_eigenvalue(lambda v: A @ (A @ v), b)
    np.testing.assert_allclose(x, jnp.linalg.solve(A @ A + rho * jnp.eye(3), A @ b), rtol=1e-8)


def test_a_start_is_gone_on_from():
    """J + 1 terms from the end of I + 1 are I + J + 2; a start at the solution stays; a bad one is dropped."""
    A, b = _system([0.5, 1.0, 3.0])
    matvec = lambda v: A @ v
    half, _ = solvers.neumann(3, 0.2)(matvec, b)
    x, info = solvers.neumann(6, 0.2)(matvec, b, half)
    expected, expected_info = solvers.neumann(10, 0.2)(matvec, b)
    np.testing.assert_allclose(x, expected, rtol=1e-12)
    np.testing.assert_allclose(info.residual, expected_info.residual, rtol=1e-12)
    exact = jnp.linalg.solve(A + jnp.eye(3), b)
    for make in (solvers.cg, solvers.minres, solvers.nystrom):
        solve = jax.jit(lambda *start, make=make: make(1, damping=1.0)(matvec, b, *start))
        x, info = solve(exact * (1 + 1e-9))
        np.testing.assert_allclose(x, exact, rtol=0, atol=1e-8)
        assert info.residual < 1e-8 < solve()[1].residual
        for bad in (1e3 * exact, jnp.nan * exact):
            np.testing.assert_allclose(solve(bad)[0], solve()[0], rtol=1e-12)
