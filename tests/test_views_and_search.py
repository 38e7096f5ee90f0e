"""Rotations, objectives around objectives, example weights, searches, the arms that use them, and what they cost."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Model, Stage, data, hypergrad, meta, models, objectives, recipes, stages, updates
from metapt.io import arms
from metapt.io.cost import Cost
from metapt.types import Batches


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(7, 7), (8, 8)])
def test_quarter_turns_are_exact(turns, size):
    image = np.random.default_rng(0).normal(size=size)
    np.testing.assert_allclose(data.rotate(jnp.asarray(image), 90.0 * turns), np.rot90(image, turns), atol=1e-12)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_by_splines_are_those_of_the_blurred_image(turns):
    """At 0 degrees the kernel is (1, 6, 1) / 8 along rows and columns; compared with a convolution by hand."""
    image = np.random.default_rng(0).normal(size=(6, 6))
    framed = np.pad(image, 1)
    along = (framed[:-2] + 6 * framed[1:-1] + framed[2:]) / 8
    blurred = (along[:, :-2] + 6 * along[:, 1:-1] + along[:, 2:]) / 8
    turned = data.rotate(jnp.asarray(image), 90.0 * turns, order=2)
    np.testing.assert_allclose(turned, np.rot90(blurred, turns), atol=1e-12)


def test_splines_blur_more_alike_at_all_angles_than_bilinear_weights_do():
    """The power of white noise in the middle of a turned image, over its mean: what a fine pattern loses by the angle."""
    noise, angles = jax.random.normal(jax.random.key(0), (400, 15, 15)), jnp.arange(0.0, 46.0, 5.0)

    def spread(order):
        turned = jax.vmap(lambda at: jax.vmap(lambda image: data.rotate(image, at, order))(noise))(angles)
        power = jnp.mean(turned[:, :, 3:12, 3:12] ** 2, axis=(1, 2, 3))
        return (power.max() - power.min()) / power.mean()

    assert spread(1) > 1.0 and spread(2) < 0.2


@pytest.mark.parametrize("order", [1, 2])
def test_the_derivative_of_a_rotation_is_that_of_its_pixels(key, order):
    image, weights = jax.random.normal(key, (2, 9, 9))
    value = lambda degrees: jnp.sum(weights * data.rotate(image, degrees, order))
    h = 1e-5
    np.testing.assert_allclose(jax.grad(value)(33.0), (value(33.0 + h) - value(33.0 - h)) / (2 * h), rtol=1e-7)


def test_random_rotations_have_the_mean_and_spread_that_were_asked_for(key):
    """Seen through the image x -> x, whose rotation by a small angle tells the angle."""
    ramp = jnp.broadcast_to(jnp.arange(5.0) - 2, (4000, 5, 5))
    turned = data.random_rotation(2.0)(5.0, ramp, key)
    angles = jnp.rad2deg(jnp.arcsin((turned[:, 3, 2] - turned[:, 1, 2]) / 2))
    assert abs(jnp.abs(angles.mean()) - 5.0) < 0.15 and abs(angles.std() - 2.0) < 0.1
    with pytest.raises(ValueError, match="std=-1"):
        data.random_rotation(-1.0)


def _pieces(rule=hypergrad.unroll, **how):
    encoder = models.mlp(16, (6, 5))
    return recipes.augmentation.augmentation(
        Model(encoder.init, lambda params, x: jnp.tanh(encoder.apply(params, x))),
        features=5,
        classes=3,
        view=data.random_rotation(1.0),
        l2=0.01,
        pretrain_optimizer=optax.adam(0.05, eps_root=1e-8),
        finetune_optimizer=optax.sgd(0.2),
        meta_optimizer=optax.sgd(1.0),
        rule=rule,
        **how,
    )


def _one_step(pieces, phi, key):
    """Phi before minus after a step of plain gradient descent is the hypergradient."""
    x = jax.random.normal(key, (8, 12, 4, 4))
    y = jax.random.randint(key, (8, 12), 0, 3)
    batches = Batches((x, y), (x[:2], y[:2]), (x[7], y[7]))
    params = optax.tree.cast(pieces.pretrain_model.init(key), jnp.float64)  # linen makes float32
    start = stages.start(pieces.pretrain, params), stages.start(pieces.finetune, params)
    state, _ = pieces.algorithm.step(pieces.algorithm.init(phi, *start), batches, key)
    return phi - state.phi


def test_the_hypergradient_of_an_angle_is_that_of_the_whole_procedure(key):
    """Pre-training, transfer, fine-tuning, validation: unrolled, and by central differences with common random numbers."""
    phi = jnp.array(20.0)
    exact = _one_step(_pieces(), phi, key)
    differences = _one_step(_pieces(differentiate=hypergrad.central_differences(1e-4)), phi, key)
    assert abs(exact) > 1e-5
    np.testing.assert_allclose(differences, exact, rtol=1e-5)


def test_a_rule_may_be_built_inside_a_function_that_is_traced():
    def slope(rate):
        stage = Stage(lambda p, c, e, b, k: (0.5 * (p - c) ** 2, e), optax.sgd(0.1, momentum=0.9))
        fit = hypergrad.unroll(stage)
        end = lambda c: fit(stages.start(stage, jnp.array(5.0)), c, jnp.zeros(1), jax.random.key(0))[0].params
        return rate * jax.grad(end)(2.0)

    np.testing.assert_allclose(jax.jit(jax.vmap(slope))(jnp.arange(3.0)), 0.1 * np.arange(3.0), rtol=1e-12)


def test_central_differences_of_the_rotation_in_the_plane():
    """J = (1 - cos(phi - mu)) |u|^2, the closed form of a rotation problem; the error is h^2 / 6 times the third derivative."""
    loss = lambda phi, report: (jnp.sum(1 - jnp.cos(phi["a"] - 1.0)), phi)
    for h in (1e-2, 1e-3):
        (gradient, blank), aux = hypergrad.central_differences(h)(loss, argnums=(0, 1), has_aux=True)(
            {"a": jnp.array([0.3, 2.0])}, 0.0
        )
        np.testing.assert_allclose(gradient["a"], jnp.sin(jnp.array([0.3, 2.0]) - 1.0), atol=h**2)
        assert blank == 0.0 and aux["a"].shape == (2,)
    with pytest.raises(ValueError, match="step=0"):
        hypergrad.central_differences(0)


def test_the_teacher_is_the_moving_average_of_the_parameters():
    objective = objectives.with_teacher(lambda p, c, e, b, k: (p**2 + c(b), e), 0.9)
    stage = Stage(objective, optax.sgd(0.1))
    weigh = jax.tree_util.Partial(lambda batch, teacher: 0.0 * batch * teacher)
    state, _ = hypergrad.unroll(stage)(
        stages.start(stage, jnp.array(1.0), extra=jnp.array(1.0)), weigh, jnp.zeros(5), jax.random.key(0)
    )
    seen = 0.8 ** np.arange(5)  # the parameters that the five steps start from
    teacher = functools.reduce(lambda average, p: 0.9 * average + 0.1 * p, seen, 1.0)
    np.testing.assert_allclose(state.extra, teacher, rtol=1e-12)


def test_the_penalty_adds_its_gradient(key):
    params = {"w": jax.random.normal(key, (3,)), "b": jnp.array(2.0)}
    plain = lambda p, c, e, b, k: (jnp.sum(p["w"]) * p["b"], e)
    slope = lambda objective: jax.grad(lambda p: objective(p, None, None, None, None)[0])(params)
    expected = jax.tree.map(lambda g, p: g + 0.6 * p, slope(plain), params)
    chex.assert_trees_all_close(slope(objectives.with_l2(plain, 0.3)), expected, rtol=1e-12)


def test_relative_weights_have_mean_one_and_follow_the_critic(key):
    classifier = models.linear(4, 3)
    made = meta.relative_example_weights(models.label_critic(classifier, inputs=4, classes=3, hidden=7))
    phi, teacher = made.init(key), classifier.init(key)
    assert sum(leaf.size for leaf in jax.tree.leaves(phi)) == (4 + 3 + 3) * 7 + 7 + 1
    batch = jax.random.normal(key, (20, 4)), jax.random.randint(key, (20,), 0, 3), jnp.ones(20)
    np.testing.assert_allclose(made.constrain(phi)(batch, teacher), 1.0, rtol=1e-12)  # all alike at first
    moved = jax.tree.map(lambda leaf: leaf + 0.3, phi)
    weights = made.constrain(moved)(batch, teacher)
    np.testing.assert_allclose(weights.mean(), 1.0, rtol=1e-12)
    own = jnp.take_along_axis(jax.nn.log_softmax(classifier.apply(teacher, batch[0])), batch[1][:, None], 1)[:, 0]
    assert np.corrcoef(np.argsort(np.argsort(weights)), np.argsort(np.argsort(own)))[0, 1] > 0.5


def test_balanced_picks_each_class_alike_and_refuses_what_it_cannot():
    y = np.repeat(np.arange(5), [10, 10, 10, 10, 4])
    picked = data.balanced(np.random.default_rng(0), y, 20)
    assert len(set(picked.tolist())) == 20 and np.bincount(y[picked]).tolist() == [4] * 5
    allowed = "must be a multiple of the 5 classes, at most 20"
    for n, reason in ((0, "must be at least 1"), (12, allowed), (25, allowed)):
        with pytest.raises(ValueError, match=f"n={n} {reason}"):
            data.balanced(np.random.default_rng(0), y, n)


SUGGEST = {"random": updates.random_search, "tpe": updates.tpe}


@pytest.mark.parametrize("name", SUGGEST)
def test_a_suggestion_is_a_function_of_key_and_history(name):
    suggest = SUGGEST[name]([0.0, -1.0], [180.0, 1.0])
    keys = jax.random.split(jax.random.key(0), 3)
    tried = jax.random.uniform(jax.random.key(1), (3, 12, 2)) * jnp.array([180.0, 1.0])
    losses, done = tried[..., 0], jnp.array([0, 5, 12])
    loop = jnp.stack([suggest(*args) for args in zip(keys, tried, losses, done, strict=True)])
    np.testing.assert_array_equal(jax.jit(jax.vmap(suggest))(keys, tried, losses, done), loop)
    assert (loop >= jnp.array([0.0, -1.0])).all() and (loop <= jnp.array([180.0, 1.0])).all()
    with pytest.raises(ValueError, match="low below high"):
        SUGGEST[name]([1.0], [1.0])


def test_tpe_searches_where_it_was_good():
    suggest = updates.tpe([0.0], [100.0])
    tried, losses = jnp.zeros((40, 1)), jnp.full(40, jnp.inf)
    for i in range(40):
        point = suggest(jax.random.key(i), tried, losses, jnp.array(i))
        tried, losses = tried.at[i].set(point), losses.at[i].set((point[0] - 70.0) ** 2)
    assert jnp.abs(tried[20:, 0] - 70.0).mean() < 15.0 < jnp.abs(tried[:10, 0] - 70.0).mean()


def test_costs_agree_with_the_operations_that_the_compiler_counts(key):
    """A Hessian product is about two gradients, as `Cost` says."""
    w, x = jax.random.normal(key, (64, 64)), jax.random.normal(key, (256, 64))
    loss = lambda w: jnp.mean(jnp.tanh(jnp.tanh(x @ w) @ w) ** 2)
    flops = lambda f, *args: jax.jit(f).lower(*args).compile().cost_analysis()["flops"]
    ratio = flops(lambda w, v: jax.jvp(jax.grad(loss), (w,), (v,))[1], w, w) / flops(jax.grad(loss), w)
    assert 1.6 < ratio < 2.4
    cost = Cost(pretrain_steps=5, finetune_steps=2)
    assert cost.forward == 8 and cost.unrolled == 8 + 3 * 7 and cost.differences(3) == 56
    assert cost.implicit(terms=20) - cost.implicit(terms=10) == 20


def test_a_search_ends_with_the_best_of_its_trials(key):
    """Trials of two outer steps; the last pre-training starts afresh with the angle whose validation loss was lowest."""
    pieces = _pieces()
    x, y = jax.random.normal(key, (8, 12, 4, 4)), jax.random.randint(key, (8, 12), 0, 3)
    batches = Batches((x, y), (x[:2], y[:2]), (x[7], y[7]))

    start = lambda key, arrays: pieces.start(key, jnp.array(0.0))
    made = arms.searching(
        "search",
        pieces.algorithm,
        updates.random_search([0.0], [90.0]),
        3,
        2,
        4,
        11,
        start,
        lambda state: {"phi": state.phi},
    )
    state = made.init(key, None, {})
    fresh = start(key, None).pretrain
    losses, angles = [], []
    for phase in made.phases[:-1]:
        for _ in range(phase.steps):
            before = state
            state, info = phase.step(state, batches, jax.random.fold_in(key, len(losses)))
        if phase.steps == 2:
            losses.append(float(info.validation_loss))
            angles.append(float(before.current.phi))
    chex.assert_trees_all_equal(state.current.pretrain, fresh)
    np.testing.assert_allclose(made.export(state)["phi"], angles[int(np.argmin(losses))])
    assert len(set(angles)) == 3 and arms.gradient_evaluations((made,)) == {"search": 11 * (3 * 2 + 4)}
