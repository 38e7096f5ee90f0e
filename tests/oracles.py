"""Two-stage problems whose hypergradient is known in closed form (float64).

Every problem is pre-trained from its start by gradient descent, fine-tuned by `K` steps of size `a`, and validated.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metapt import stages
from metapt.types import Objective, Stage

K, A_STEP = 4, 0.1  # fine-tuning steps, and their size


class Problem(NamedTuple):
    pretrain: Objective
    finetune: Objective
    validate: Any  # params -> scalar
    start: Any  # of pre-training
    rate: float  # pre-training's learning rate
    phi: Any
    hypergradient: Any  # the closed form, shaped like phi


def plain(loss):
    """`(params, context) -> scalar` as an objective."""
    return lambda params, context, extra, batch, key: (loss(params, context), extra)


def hypergradient(problem: Problem, pretrain_rule, finetune_rule, pretrain_steps=400, jit=True):
    """d validation / d phi by composing two fits."""
    pre_stage = Stage(problem.pretrain, optax.sgd(problem.rate))
    fine_stage = Stage(problem.finetune, optax.sgd(A_STEP))
    pre, fine = pretrain_rule(pre_stage), finetune_rule(fine_stage)
    key = jax.random.key(0)

    def meta_loss(phi):
        end, _ = pre(stages.start(pre_stage, problem.start), phi, jnp.zeros(pretrain_steps), key)
        tuned, _ = fine(stages.start(fine_stage, end.params), None, jnp.zeros(K), key)
        return problem.validate(tuned.params)

    gradient = jax.grad(meta_loss)
    return (jax.jit(gradient) if jit else gradient)(problem.phi)


def task_weights() -> Problem:
    """T2: L_PT = sum_t w_t / 2 |theta - c_t|^2, w = 2 sigmoid(phi); theta* = sum w c / W."""
    rng = np.random.default_rng(2)
    c, a, b, phi = rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=4), jnp.array([0.3, -0.5, 0.1])
    w = 2 * jax.nn.sigmoid(phi)
    rest = w @ c / w.sum()
    end = a + (1 - A_STEP) ** K * (rest - a)
    return Problem(
        pretrain=plain(lambda p, phi: 0.5 * jnp.sum(2 * jax.nn.sigmoid(phi) * jnp.sum((p - c) ** 2, axis=1))),
        finetune=plain(lambda p, _: 0.5 * jnp.sum((p - a) ** 2)),
        validate=lambda p: 0.5 * jnp.sum((p - b) ** 2),
        start=jnp.zeros(4),
        rate=0.1,
        phi=phi,
        hypergradient=(c - rest) @ (end - b) * (1 - A_STEP) ** K * w * (1 - w / 2) / w.sum(),
    )


def ridge() -> Problem:
    """T3: ridge regression with a penalty e^phi_i for every weight, then fine-tuning on other data."""
    rng = np.random.default_rng(3)
    n, d = 30, 4
    X, Xf = rng.normal(size=(n, d)), rng.normal(size=(n, d))
    y, yf, b = rng.normal(size=n), rng.normal(size=n), rng.normal(size=d)
    phi = jnp.array([-1.0, -0.5, 0.0, 0.5])
    H, Hf = X.T @ X / n + jnp.diag(jnp.exp(phi)), Xf.T @ Xf / n
    rest = jnp.linalg.solve(H, X.T @ y / n)
    shrink = jnp.linalg.matrix_power(jnp.eye(d) - A_STEP * Hf, K)
    fixed = jnp.linalg.solve(Hf, Xf.T @ yf / n)
    end = fixed + shrink @ (rest - fixed)
    return Problem(
        pretrain=plain(lambda p, phi: 0.5 * jnp.mean((X @ p - y) ** 2) + 0.5 * jnp.sum(jnp.exp(phi) * p**2)),
        finetune=plain(lambda p, _: 0.5 * jnp.mean((Xf @ p - yf) ** 2)),
        validate=lambda p: 0.5 * jnp.sum((p - b) ** 2),
        start=jnp.zeros(d),
        rate=0.3,
        phi=phi,
        hypergradient=-((end - b) @ shrink @ jnp.linalg.inv(H)) * jnp.exp(phi) * rest,
    )


def example_weights() -> Problem:
    """T4: d theta* / d w_i = (X'DX)^-1 x_i (y_i - x_i theta*), by weighted least squares."""
    rng = np.random.default_rng(4)
    n, d = 12, 3
    X, y, a, b, w = (
        rng.normal(size=(n, d)),
        rng.normal(size=n),
        rng.normal(size=d),
        rng.normal(size=d),
        rng.uniform(0.5, 1.5, n),
    )
    H = X.T @ np.diag(w) @ X
    rest = np.linalg.solve(H, X.T @ (w * y))
    end = a + (1 - A_STEP) ** K * (rest - a)
    return Problem(
        pretrain=plain(lambda p, w: 0.5 * jnp.sum(w * (X @ p - y) ** 2)),
        finetune=plain(lambda p, _: 0.5 * jnp.sum((p - a) ** 2)),
        validate=lambda p: 0.5 * jnp.sum((p - b) ** 2),
        start=jnp.zeros(d),
        rate=0.05,
        phi=jnp.asarray(w),
        hypergradient=(1 - A_STEP) ** K * (end - b) @ np.linalg.solve(H, (X * (y - X @ rest)[:, None]).T),
    )


def rotation(phi=0.4, mu=1.3) -> Problem:
    """T5: pre-train on R(phi) x, fine-tune and validate on R(mu) x, x isotropic: J = (1 - a)^2K |u|^2 (1 - cos(phi - mu))."""
    u = jnp.array([1.0, 2.0])

    def turned(angle):
        return jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]]) @ u

    return Problem(
        pretrain=plain(lambda p, phi: 0.5 * jnp.sum((p - turned(phi)) ** 2)),
        finetune=plain(lambda p, _: 0.5 * jnp.sum((p - turned(mu)) ** 2)),
        validate=lambda p: 0.5 * jnp.sum((p - turned(mu)) ** 2),
        start=jnp.zeros(2),
        rate=0.3,
        phi=jnp.array(phi),
        hypergradient=(1 - A_STEP) ** (2 * K) * (u @ u) * jnp.sin(phi - mu),
    )


PROBLEMS = {make.__name__: make for make in (task_weights, ridge, example_weights, rotation)}


class Quadratic(NamedTuple):
    """T1: L = 1/2 (theta - A phi)' H (theta - A phi); d theta* / d phi = A."""

    H: np.ndarray
    A: np.ndarray
    v: np.ndarray

    @classmethod
    def make(cls, seed=1, n=4, m=3) -> "Quadratic":
        rng = np.random.default_rng(seed)
        Q = rng.normal(size=(n, n))
        return cls(Q @ Q.T + np.eye(n), rng.normal(size=(n, m)), rng.normal(size=n))

    def objective(self) -> Objective:
        residual = lambda p, phi: p - self.A @ phi
        return plain(lambda p, phi: 0.5 * residual(p, phi) @ self.H @ residual(p, phi))

    def truncated(self, eta: float, steps: int):
        """v' (I - (I - eta H)^steps) A: what `steps` unrolled steps, or `steps - 1` Neumann terms, give from any start."""
        return (
            self.v @ (np.eye(len(self.H)) - np.linalg.matrix_power(np.eye(len(self.H)) - eta * self.H, steps)) @ self.A
        )

    def gradient(self, rule, eta: float, steps: int, start=0.0):
        stage = Stage(self.objective(), optax.sgd(eta))
        fit = rule(stage)
        begin = stages.start(stage, jnp.full(len(self.H), start))
        end = lambda phi: self.v @ fit(begin, phi, jnp.zeros(steps), jax.random.key(0))[0].params
        return jax.grad(end)(jnp.ones(self.A.shape[1]))
