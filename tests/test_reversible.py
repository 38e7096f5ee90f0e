"""Runs that are taken back: bit for bit, at a memory that does not grow with the steps, with the derivative of `unroll`."""

import functools
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Stage, hypergrad, stages
from metapt.optimizers import from_context, reversible_sgd
from tests.oracles import Quadratic, plain

PARAMS = {"a": np.array([0.5, -1.0]), "b": np.array(0.3)}
CONTEXT = {"rate": np.array(0.05), "c": np.array([0.7, 1.1]), "unused": np.array(3)}


def _objective(params, context, extra, batch, key):
    """Two minima, a batch and a key that matter."""
    noise = 0.1 * (jax.random.key_data(key)[1] % 7)
    value = jnp.sum(jnp.cos(params["a"] * context["c"] + noise) + 0.3 * params["a"] ** 2)
    return value + batch * jnp.sum((params["b"] - context["c"].sum()) ** 2), extra


def _stage(make, steps=40, momentum=0.9):
    """A learning rate that is learned and decays, behind clipping and weight decay."""
    schedule = lambda context: lambda count: context["rate"] * 0.99**count
    before = optax.clip(2.0), optax.add_decayed_weights(0.01)
    make = functools.partial(reversible_sgd, steps=steps) if make == "reversible" else optax.sgd
    optimizer = from_context(lambda c: optax.chain(*before, make(schedule(c), momentum)), CONTEXT)
    return Stage(_objective, optimizer)


def _gradient(rule, stage, batches):
    def loss(params, context):
        end, info = rule(stage)(stages.start(stage, params), context, batches, jax.random.key(0))
        return optax.tree.norm(end.params, squared=True) + 0.1 * info.loss.mean() + info.grad_norm[3], end

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)


def _floats(found):
    (value, _), gradients = found
    return value, jax.tree.map(lambda leaf: 0.0 if leaf.dtype == jax.dtypes.float0 else leaf, gradients)


BATCHES = np.linspace(0.5, 1.5, 40)


def test_the_derivative_is_that_of_momentum_unrolled():
    """In start, context, learning rate; through the run's losses too; vmap = one after the other."""
    reverse = _gradient(hypergrad.reversible, _stage("reversible"), BATCHES)
    found = jax.jit(reverse)(PARAMS, CONTEXT)
    exact = jax.jit(_gradient(hypergrad.unroll, _stage("sgd"), BATCHES))(PARAMS, CONTEXT)
    chex.assert_trees_all_close(_floats(found), _floats(exact), rtol=1e-11, atol=1e-13)
    straight = jax.jit(_gradient(hypergrad.unroll, _stage("reversible"), BATCHES))(PARAMS, CONTEXT)
    chex.assert_trees_all_close(_floats(straight), _floats(exact), rtol=1e-11, atol=1e-13)
    both = jax.tree.map(lambda leaf: np.stack([leaf, 1.1 * leaf]), PARAMS)
    mapped = jax.jit(jax.vmap(reverse, in_axes=(0, None)))(both, CONTEXT)
    chex.assert_trees_all_close(_floats(jax.tree.map(lambda leaf: leaf[0], mapped)), _floats(found), rtol=1e-11)


def test_the_closed_form_of_momentum_on_a_quadratic():
    """z = (theta, v) moves by a matrix: d theta_S / d phi is its geometric sum. Eager, and on the host."""
    quadratic, rate, momentum, steps = Quadratic.make(), 0.03, 0.75, 12
    H, A, one = quadratic.H, quadratic.A, np.eye(4)
    move = np.block([[one - rate * H, -rate * momentum * one], [H, momentum * one]])
    push, total = np.vstack([rate * H @ A, -H @ A]), np.zeros((8, 3))
    for _ in range(steps):
        total = move @ total + push
    stage = Stage(quadratic.objective(), reversible_sgd(rate, momentum, steps=steps))
    fit = hypergrad.reversible(stage, loop=stages.loop.host)
    end = lambda phi: fit(stages.start(stage, jnp.zeros(4)), phi, jnp.zeros(steps), jax.random.key(0))[0].params
    found = jax.grad(lambda phi: quadratic.v @ end(phi))(jnp.ones(3))
    np.testing.assert_allclose(found, quadratic.v @ total[:4], rtol=1e-11)


@pytest.mark.parametrize(("momentum", "dtype"), [(0.5, jnp.float32), (0.9, jnp.float32), (0.99, jnp.float64)])
def test_steps_are_taken_back_bit_for_bit_from_anywhere(momentum, dtype):
    """On the optimizer alone, gradients at random; the run is as long as the stack allows and begins amid a word of digits."""
    before, run = 860, 1000
    rate, n = 0.2 * (1 - momentum), Fraction(momentum).limit_denominator(100).numerator
    optimizer, exact = reversible_sgd(rate, momentum, steps=run), optax.sgd(rate, momentum)
    slope = lambda params, n: jnp.cos(7 * params) + 0.3 * jnp.sin(n**2).astype(dtype)

    def forth(carry, n):
        params, state = carry
        updates, state = optimizer.update(slope(params, n), state, params)
        return (optax.apply_updates(params, updates), state), None

    def back(carry, n):
        params, state = carry
        updates, _ = optimizer.update(params, state, params, phase="undo_move")
        params = optax.apply_updates(params, updates)
        _, state = optimizer.update(slope(params, n), state, params, phase="undo_momentum")
        return (params, state), None

    @jax.jit
    def there_and_back(params):
        updates, state = optimizer.update(params, optimizer.init(params), params, phase="start", run=run)
        middle, _ = jax.lax.scan(forth, (optax.apply_updates(params, updates), state), jnp.arange(before))
        end, _ = jax.lax.scan(forth, middle, jnp.arange(before, before + run))
        again, _ = jax.lax.scan(back, end, jnp.arange(before, before + run)[::-1])
        plain, _ = exact.update(slope(end[0], 0), (optax.TraceState(end[1].velocity), optax.EmptyState()))
        return middle, end, again, forth(end, 0)[0][0] - (end[0] + plain)

    middle, end, again, off = there_and_back(jnp.linspace(-1, 1, 50, dtype=dtype))
    np.testing.assert_array_equal(again[0], middle[0])
    np.testing.assert_array_equal(again[1].velocity, middle[1].velocity)
    assert again[1].count == before and jnp.abs(end[0] - middle[0]).max() > 0.01
    grid = 8 * jnp.finfo(dtype).eps  # n + 1 of them for the velocity, half a grid for the parameters, and rounding
    assert jnp.abs(off).max() < grid * ((n + 1) * rate + 1)


def test_memory_grows_by_the_digits_alone():
    """Read from the compiled program: 16 times the steps cost the words of the stack, not states."""
    size, context = 1000, jnp.ones((), jnp.float32)

    def peak(rule, optimizer, steps):
        stage = Stage(plain(lambda p, c: jnp.sum(jnp.tanh(p * c) ** 2)), optimizer)
        state = stages.start(stage, jnp.ones(size, jnp.float32))
        end = lambda c: jnp.sum(rule(stage)(state, c, jnp.zeros(steps), jax.random.key(0))[0].params)
        return jax.jit(jax.grad(end)).lower(context).compile().memory_analysis().temp_size_in_bytes / (4 * size)

    short, long = (peak(hypergrad.reversible, reversible_sgd(0.1, steps=steps), steps) for steps in (100, 1600))
    words = [reversible_sgd(0.1, steps=steps).init(jnp.ones(1)).remainders.shape[0] for steps in (100, 1600)]
    assert words == [2, 11] and long - short < 4 * (words[1] - words[0])
    nested = peak(functools.partial(hypergrad.unroll, remat="nested"), optax.sgd(0.1, 0.9), 1600)
    assert long < 0.5 * nested, (short, long, nested)


def _extra(objective, extra, mode="reversible"):
    stage = Stage(objective, reversible_sgd(0.1, steps=9))
    rule = getattr(hypergrad, mode)
    end = lambda p: rule(stage)(stages.start(stage, p, extra), None, jnp.zeros(9), jax.random.key(0))[0]
    return jax.grad(lambda p: end(p).params)(0.7), end(0.7).extra


def test_extra_may_change_or_matter_but_not_both():
    counted = lambda p, c, extra, b, k: (jnp.cos(3 * p) * extra["scale"], {**extra, "count": extra["count"] + 1})
    used = lambda p, c, extra, b, k: (jnp.cos(3 * p) * extra["count"], {**extra, "count": extra["count"] + 1})
    extra = {"scale": 0.5, "count": 0.0}
    gradient, end = _extra(counted, extra)
    np.testing.assert_allclose(gradient, _extra(counted, extra, "unroll")[0], rtol=1e-11)
    assert end["count"] == 9
    with pytest.raises(ValueError, match=r"reversible: extra changes .* the gradient depends on it"):
        _extra(used, extra)


def test_a_run_beyond_the_limit_says_so():
    stage = Stage(plain(lambda p, c: -c * p), reversible_sgd(0.1, steps=50, limit=4.0))
    fit = hypergrad.reversible(stage)
    end = lambda c: fit(stages.start(stage, jnp.zeros((), jnp.float32)), c, jnp.zeros(50), jax.random.key(0))[0].params
    gradient = jax.jit(jax.grad(end))
    assert jnp.isnan(gradient(jnp.float32(1.3))) and jnp.isfinite(gradient(jnp.float32(0.01)))


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1, eps_root=1e-8),
        optax.sgd(0.1),
        optax.sgd(0.1, momentum=0.9),
        optax.chain(optax.scale_by_adam(eps_root=1e-8), reversible_sgd(0.1, steps=9)),
        optax.chain(reversible_sgd(0.1, steps=9), optax.scale(0.5)),
    ],
    ids=["adam", "sgd", "momentum", "behind_a_state", "before_another"],
)
def test_optimizers_that_cannot_be_taken_back_are_refused(optimizer):
    with pytest.raises(ValueError, match=r"reversible: .*optimizers.reversible_sgd"):
        hypergrad.reversible(Stage(_objective, optimizer))


def test_wrong_arguments_are_refused_with_the_bound():
    for momentum in (0.0, 1.0, -0.5, 0.123456789, float("nan")):
        with pytest.raises(ValueError, match=r"reversible_sgd: momentum=.* must be a fraction between 0 and 1"):
            reversible_sgd(0.1, momentum, steps=9)
    for how, message in (({"steps": 0}, "steps=0"), ({"steps": 9, "limit": 0.0}, "limit=0.0")):
        with pytest.raises(ValueError, match=f"reversible_sgd: {message} must be at least"):
            reversible_sgd(0.1, **how)
    optimizer = reversible_sgd(0.1, steps=9)
    with pytest.raises(ValueError, match="must be float32 or float64, found bfloat16"):
        optimizer.init(jnp.ones(2, jnp.bfloat16))
    stage = Stage(plain(lambda p, c: p**2), optimizer)
    with pytest.raises(ValueError, match="steps=9 but the run has 10"):
        hypergrad.reversible(stage)(stages.start(stage, jnp.ones(())), None, jnp.zeros(10), jax.random.key(0))
