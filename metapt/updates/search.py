"""Search instead of a derivative: what to try next, from what was tried. `(key, tried [T, D], losses [T], done) -> [D]`."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Suggest = Callable[[Array, Array, Array, Array], Array]


def random_search(low: Sequence[float], high: Sequence[float]) -> Suggest:
    """Uniform in a box, whatever was tried. Source: Bergstra and Bengio 2012.

    Example:
        >>> suggest = random_search([0.0], [180.0])
        >>> angle = suggest(jax.random.key(0), jnp.zeros((5, 1)), jnp.zeros(5), jnp.array(0))
        >>> angle.shape, bool((angle >= 0).all() and (angle < 180).all())
        ((1,), True)
    """
    low_, high_ = _box("random_search", low, high)
    return lambda key, tried, losses, done: jax.random.uniform(
        key, low_.shape, tried.dtype, jnp.asarray(low_, tried.dtype), jnp.asarray(high_, tried.dtype)
    )


def tpe(low: Sequence[float], high: Sequence[float]) -> Suggest:
    """Optuna's tree-structured Parzen estimator in a box, for up to about twenty dimensions. Needs `metapt[search]`.

    A fresh study is told all earlier trials every time, so the suggestion is a pure function of them and the key: it may
    be jitted, vmapped and resumed. Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", section 4.

    Raises:
        ValueError: if Optuna is not installed.

    Example:
        >>> suggest = tpe(low=[0.0], high=[1.0])
        >>> tried, losses = jnp.array([[0.1], [0.9], [0.0]]), jnp.array([0.1, 0.9, jnp.inf])
        >>> point = suggest(jax.random.key(0), tried, losses, jnp.array(2))
        >>> point.shape, bool((point >= 0) & (point <= 1))
        ((1,), True)
    """
    low_, high_ = _box("tpe", low, high)
    try:
        import optuna
    except ImportError as error:
        raise ValueError("tpe: needs Optuna, which is not installed: pip install 'metapt[search]'") from error
    space: dict[str, optuna.distributions.BaseDistribution] = {
        f"x{i}": optuna.distributions.FloatDistribution(a, b) for i, (a, b) in enumerate(zip(low_, high_, strict=True))
    }

    def ask(seed, tried, losses, done):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=int(seed)))
        for point, loss in zip(tried[: int(done)], losses[: int(done)], strict=True):
            params = {
                name: float(np.clip(x, *bounds)) for name, x, *bounds in zip(space, point, low_, high_, strict=True)
            }
            if np.isfinite(loss):
                study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=float(loss)))
        trial = study.ask(space)
        return np.array([trial.params[name] for name in space], np.float32)

    def suggest(key: Array, tried: Array, losses: Array, done: Array) -> Array:
        # The thread that calls back knows nothing of a float64 that was switched on for a while here: float32 both ways.
        history = tried.astype(jnp.float32), losses.astype(jnp.float32), done
        seed = jax.random.randint(key, (), 0, jnp.iinfo(jnp.int32).max)
        shape = jax.ShapeDtypeStruct(tried.shape[1:], jnp.float32)
        return jax.pure_callback(ask, shape, seed, *history, vmap_method="sequential").astype(tried.dtype)

    return suggest


def _box(name: str, low: Sequence[float], high: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(low, float), np.asarray(high, float)
    if a.ndim != 1 or a.shape != b.shape or not len(a) or not (a < b).all():
        raise ValueError(f"{name}: low={a.tolist()}, high={b.tolist()} must be two lists of one length, low below high")
    return a, b
