"""Data, models, objectives, meta-parameters: each against a number."""

import chex
import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from metapt import Model, Stage, data, hypergrad, meta, models, objectives, solvers, stages


def test_splits_are_disjoint_and_depend_on_the_generator_alone():
    parts = data.split(np.random.default_rng(0), 100, {"a": 50, "b": 30})
    assert not set(parts["a"]) & set(parts["b"]) and [len(part) for part in parts.values()] == [50, 30]
    again = data.split(np.random.default_rng(0), 100, {"a": 50, "b": 30})
    np.testing.assert_array_equal(parts["a"], again["a"])


@pytest.mark.parametrize("sizes", [{"a": 101}, {"a": 60, "b": 60}, {"a": 0}, {"a": -1, "b": 5}])
def test_impossible_splits_are_refused(sizes):
    with pytest.raises(ValueError, match="split:"):
        data.split(np.random.default_rng(0), 100, sizes)


def test_planted_tasks_are_halves_of_the_classes_and_coins():
    y = np.arange(10).repeat(200)
    labels = data.plant_tasks(np.random.default_rng(0), y, real=7, noise=30)
    by_class = labels.reshape(10, 200, 37).mean(1)
    assert set(np.unique(by_class[:, :7])) == {0.0, 1.0} and (by_class[:, :7].sum(0) == 5).all()
    assert abs(by_class[:, 7:] - 0.5).max() < 0.2  # 5 standard deviations of 200 coins


def test_drawn_rows_stay_together_and_cover_the_data():
    x = jnp.arange(20)
    batches = data.draw(jax.random.key(0), data.Labelled(x, 2 * x), steps=50, size=4)
    np.testing.assert_array_equal(batches.y, 2 * batches.x)
    assert set(np.unique(batches.x)) == set(range(20))


def test_a_linear_model_learns_the_digits():
    """The reader gives what scikit-learn's own classifier sees: 95 % by a linear model."""
    x, y = data.digits()
    model = models.linear(64, 10, zero=True)
    stage = Stage(objectives.cross_entropy(objectives.whole(model)), optax.adam(0.05))
    train = jax.tree.map(lambda a: jnp.broadcast_to(a[:1000], (200, 1000, *a.shape[1:])), (x, y))
    state, info = stages.trainer(stage)(
        stages.start(stage, model.init(jax.random.key(0))), None, train, stages.step_keys(jax.random.key(0), train)
    )
    assert objectives.accuracy(model.apply(state.params, x[1000:]), y[1000:]) > 0.88 and info.loss[-1] < 0.1


def _two_layers(kind):
    if kind == "linen":
        return models.from_linen(linen.Sequential([linen.Dense(5), jnp.tanh, linen.Dense(3)]), jnp.zeros((1, 4)))
    if kind == "nnx":
        return models.from_nnx(
            lambda rngs: nnx.Sequential(nnx.Linear(4, 5, rngs=rngs), jnp.tanh, nnx.Linear(5, 3, rngs=rngs))
        )
    if kind == "equinox":
        return models.from_equinox(lambda key: equinox.nn.MLP(4, 3, 5, 1, activation=jnp.tanh, key=key))
    weights = {"one": jnp.ones((4, 5)) / 4, "two": jnp.ones((5, 3)) / 5}
    return Model(lambda key: weights, lambda params, x: jnp.tanh(x @ params["one"]) @ params["two"])


@pytest.mark.parametrize("kind", ["linen", "nnx", "equinox", "plain"])
def test_every_kind_of_model_gives_the_hypergradient_of_its_finite_differences(kind):
    model = _two_layers(kind)
    x, y = jax.random.normal(jax.random.key(1), (8, 4)), jnp.arange(8) % 3
    stage = Stage(objectives.weighted_cross_entropy(objectives.whole(model)), optax.adam(0.05, eps_root=1e-8))
    fit = hypergrad.unroll(stage)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0)))

    def loss(phi):
        batches = jax.tree.map(lambda a: jnp.broadcast_to(a, (5, *a.shape)), (x, y))
        weigh = jax.tree_util.Partial(lambda phi, batch: phi[batch[1]], phi)
        state, _ = fit(stages.start(stage, params), weigh, batches, jax.random.key(0))
        return jnp.sum(model.apply(state.params, x)[:, 0] ** 2)

    phi, eps = jnp.array([1.0, 0.5, 2.0]), 1e-6
    differences = [(loss(phi + eps * e) - loss(phi - eps * e)) / (2 * eps) for e in jnp.eye(3)]
    np.testing.assert_allclose(jax.grad(loss)(phi), differences, rtol=1e-6, atol=1e-10)
    assert jax.tree.structure(model.init(jax.random.key(1))) == jax.tree.structure(params)


def test_linen_modules_with_other_collections_are_refused():
    model = models.from_linen(linen.BatchNorm(use_running_average=False), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"collections \['batch_stats', 'params'\]"):
        model.init(jax.random.key(0))


def test_the_power_of_relative_weights_is_that_of_their_ratios():
    network = Model(lambda key: jnp.zeros(()), lambda params, x: params * x)
    x = jnp.array([-3.0, 0.0, 2.0])
    plain, sharp = (meta.relative_example_weights(network, power).constrain(1.5)(x) for power in (1.0, 3.0))
    np.testing.assert_allclose(sharp / sharp[0], (plain / plain[0]) ** 3, rtol=1e-12)
    np.testing.assert_allclose([plain.mean(), sharp.mean()], 1.0, rtol=1e-12)


@pytest.mark.parametrize("make", [meta.sigmoid_weights, meta.softmax_weights, meta.softplus_weights])
def test_weights_start_at_one_and_stay_positive(make):
    weights = make(5)
    np.testing.assert_allclose(weights.constrain(weights.init(jax.random.key(0))), 1.0, rtol=1e-12)
    extreme = weights.constrain(jnp.array([-30.0, -1.0, 0.0, 1.0, 30.0]))
    assert (extreme > 0).all() and (jnp.diff(extreme) > 0).all()
    with pytest.raises(ValueError, match="at least 1"):
        make(0)


def test_softmax_weights_keep_their_total():
    phi = jax.random.normal(jax.random.key(0), (7,)) * 3
    np.testing.assert_allclose(meta.softmax_weights(7).constrain(phi).sum(), 7.0, rtol=1e-12)
    np.testing.assert_allclose(meta.softmax_weights(7, total=2.5).constrain(phi).sum(), 2.5, rtol=1e-12)
    with pytest.raises(ValueError, match="total=0"):
        meta.softmax_weights(7, total=0)


def test_a_head_on_encoded_batches_is_the_head_on_its_encoder(key):
    """Values and derivatives, and passes over two batches are as many batches."""
    encoder, head = models.mlp(4, (5, 3)), models.linear(3, 2)
    encode = objectives.whole(encoder)
    inside = Stage(objectives.cross_entropy(objectives.on_features(encoder, head)), optax.sgd(0.3, momentum=0.9))
    outside = Stage(objectives.cross_entropy(objectives.whole(head)), inside.optimizer)
    batches = jax.random.normal(key, (2, 6, 4)), jax.random.randint(key, (2, 6), 0, 2)
    state = stages.start(inside, head.init(key))

    def loss(fit, batches):
        tuned = lambda params: fit(state, params, batches, key)[0].params
        return jax.value_and_grad(lambda params: optax.tree.norm(tuned(params), squared=True))(encoder.init(key))

    thrice = jax.tree.map(lambda a: jnp.concatenate([a] * 3), batches)
    expected = loss(hypergrad.unroll(inside), thrice)
    found = loss(stages.on_encoded(hypergrad.unroll(outside), encode, passes=3), batches)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    assert optax.tree.norm(expected[1]) > 1e-3
    with pytest.raises(ValueError, match="on_encoded: passes=0 must be at least 1"):
        stages.on_encoded(hypergrad.unroll(outside), encode, passes=0)


def test_weighted_tasks_is_linear_in_the_weights():
    predict = objectives.stateless(lambda params, context, x: x @ params)
    objective = objectives.weighted_tasks(predict)
    params, x = jax.random.normal(jax.random.key(0), (3, 4)), jax.random.normal(jax.random.key(1), (6, 3))
    y = (x @ params > 0.3).astype(float)
    value = lambda w: objective(params, w, None, (x, y), None)[0]
    by_task = jnp.array([value(e) for e in jnp.eye(4)])
    p = jax.nn.sigmoid(x @ params)
    np.testing.assert_allclose(by_task, -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p), axis=0) / 4, rtol=1e-10)
    np.testing.assert_allclose(
        value(jnp.array([1.0, 2.0, 0.5, 0.0])), by_task @ jnp.array([1.0, 2.0, 0.5, 0.0]), rtol=1e-12
    )


def test_an_example_weight_network_is_a_context_of_an_implicit_stage():
    """Mislabelled examples get a hypergradient that lowers their weight, by network, through an implicit stage."""
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(60, 3)), np.array([1.0, -2.0, 0.5])
    y = (x @ truth > 0).astype(int)
    flipped = np.arange(60) < 15
    labels = np.where(flipped, 1 - y, y)
    weights = meta.example_weights(
        Model(lambda key: jnp.zeros(60), lambda params, batch: params[batch[0][:, 3].astype(int)])
    )
    columns = np.column_stack([x, np.arange(60)])
    head = models.linear(3, 2, zero=True)
    predict = objectives.stateless(lambda params, context, x: head.apply(params, x[:, :3]))
    weighted = objectives.weighted_cross_entropy(predict)
    ridge = lambda p, c, e, b, k: (weighted(p, c, e, b, k)[0] + 0.05 * optax.tree.norm(p, squared=True), e)
    stage = Stage(ridge, optax.sgd(1.0))
    fit = hypergrad.implicit(stage, solvers.cg(50))
    batches = jax.tree.map(lambda a: jnp.broadcast_to(a, (300, *a.shape)), (columns, labels))

    def loss(phi):
        start = stages.start(stage, jax.tree.map(lambda a: a.astype(float), head.init(jax.random.key(0))))
        state, _ = fit(start, weights.constrain(phi), batches, jax.random.key(0))
        return objectives.cross_entropy(objectives.whole(head))(state.params, None, None, (x, y), None)[0]

    gradient = jax.jit(jax.grad(loss))(weights.init(jax.random.key(0)))
    assert gradient.shape == (60,) and gradient[flipped].mean() > 0 > gradient[~flipped].mean()
    assert (gradient[flipped] > 0).mean() > 0.9
    phi, e = jnp.zeros(60), jnp.zeros(60).at[3].set(1e-4)
    np.testing.assert_allclose(gradient[3], (loss(phi + e) - loss(phi - e)) / 2e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.plant_tasks(np.random.default_rng(0), np.arange(4), 0, 1), "real=0"),
        (lambda: data.draw(jax.random.key(0), jnp.ones(3), 0, 1), "steps=0"),
        (lambda: models.mlp(3, ()), "widths=()"),
        (lambda: models.mlp(0, (3,)), "inputs=0"),
        (lambda: meta.example_weights(_two_layers("plain"), bound=0.0), "bound=0.0"),
    ],
)
def test_wrong_arguments_name_the_value(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value)


def test_equinox_is_optional(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match=r"metapt\[equinox\]"):
        models.from_equinox(lambda key: None)
