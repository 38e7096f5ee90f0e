"""Learned initialisations on linear regression, where one step of training is a matrix; the episodes they are learned from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Batches, Model, Stage, data, hypergrad, models, objectives, recipes, run, solvers, stages
from metapt.types import SolveInfo

TASKS, SHOTS, QUERIES, D, RATE, STEPS, STRENGTH = 3, 6, 5, 4, 0.1, 4, 0.7
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(TASKS, SHOTS, D)), RNG.normal(size=(TASKS, SHOTS, 1))
QX, QY = RNG.normal(size=(TASKS, QUERIES, D)), RNG.normal(size=(TASKS, QUERIES, 1))
PHI = RNG.normal(size=(D, 1))
MODEL = Model(lambda key: jnp.asarray(PHI), lambda params, x: x @ params)
EYE = np.eye(D)

# Of the mean squared error: Hessians [T, D, D], gradients at w, minima, on the support and on the query.
A, B = 2 * np.einsum("tbi,tbj->tij", X, X) / SHOTS, 2 * np.einsum("tbi,tbj->tij", QX, QX) / QUERIES
C = np.linalg.solve(A, 2 * np.einsum("tbi,tbj->tij", X, Y) / SHOTS)


def _query_gradient(w):
    return B @ w - 2 * np.einsum("tbi,tbj->tij", QX, QY) / QUERIES


def _moved(make, steps=STEPS, rate=RATE, **how):
    """`phi - (phi after one outer step of plain descent, step 1)`, and what the step told."""
    made = make(MODEL, optax.sgd(rate), optax.sgd(1.0), loss=objectives.squared_error, **how)
    support = jax.tree.map(lambda a: jnp.broadcast_to(a, (steps, *a.shape)), (jnp.asarray(X), jnp.asarray(Y)))
    batches = Batches(None, support, (jnp.asarray(QX), jnp.asarray(QY)))
    state, info = jax.jit(made.algorithm.step)(made.start(jax.random.key(0)), batches, jax.random.key(1))
    return PHI - np.asarray(state.phi), info


def _power(matrices, n):
    return np.stack([np.linalg.matrix_power(m, n) for m in matrices])


@pytest.mark.parametrize("steps", [1, STEPS])
def test_maml_fomaml_and_reptile_are_their_closed_forms(steps):
    U = _power(EYE - RATE * A, steps)  # d end / d start
    ends = C + U @ (PHI - C)
    maml, info = _moved(recipes.maml.maml, steps)
    np.testing.assert_allclose(maml, (U @ _query_gradient(ends)).mean(0), rtol=1e-10)
    np.testing.assert_allclose(info.validation_loss, np.mean((QX @ ends - QY) ** 2), rtol=1e-12)
    assert info.finetune.loss.shape == (steps, TASKS) and not info.report.solves
    fomaml, _ = _moved(recipes.fomaml.fomaml, steps)
    np.testing.assert_allclose(fomaml, _query_gradient(ends).mean(0), rtol=1e-10)
    reptile, info = _moved(recipes.reptile.reptile, steps)
    np.testing.assert_allclose(reptile, ((EYE - U) @ (PHI - C)).mean(0), rtol=1e-10)
    np.testing.assert_allclose(info.validation_loss, np.mean(np.sum((PHI - ends) ** 2, axis=(1, 2))) / 2, rtol=1e-12)
    if steps == 1:  # joint training: the gradient of the tasks' mean loss
        np.testing.assert_allclose(reptile, RATE * (A @ (PHI - C)).mean(0), rtol=1e-10)


def test_without_training_they_are_the_plain_gradient_and_reptile_stands_still():
    plain = _query_gradient(PHI).mean(0)
    np.testing.assert_allclose(_moved(recipes.maml.maml, 1, 0.0)[0], plain, rtol=1e-12)
    np.testing.assert_allclose(_moved(recipes.fomaml.fomaml, 1, 0.0)[0], plain, rtol=1e-12)
    assert not _moved(recipes.reptile.reptile, 1, 0.0)[0].any()


def test_imaml_is_the_closed_form_of_ridge_and_first_order_under_a_strong_pull():
    def expected(strength):
        at = np.linalg.solve(A + strength * EYE, A @ C + strength * PHI)  # the minimum near phi
        return np.linalg.solve(EYE + A / strength, _query_gradient(at)).mean(0), _query_gradient(at).mean(0)

    imaml, info = _moved(recipes.imaml.imaml, 400, strength=STRENGTH)
    np.testing.assert_allclose(imaml, expected(STRENGTH)[0], rtol=1e-8)
    assert info.report.solves == 1 and info.report.finite == 1 and info.report.residual < 1e-9
    gauss_newton = objectives.squared_error(
        hypergrad.linearized(objectives.whole(MODEL))
    )  # of a linear model, the Hessian
    same, _ = _moved(recipes.imaml.imaml, 400, strength=STRENGTH, curvature=gauss_newton)
    np.testing.assert_allclose(same, imaml, rtol=1e-12)
    short, info = _moved(recipes.imaml.imaml, 400, strength=STRENGTH, solve=solvers.cg(1))
    assert info.report.residual > 1e-3 and np.abs(short - imaml).max() > 1e-3
    strong, _ = _moved(recipes.imaml.imaml, 400, rate=1e-7, strength=1e7)
    exact, first_order = expected(1e7)
    np.testing.assert_allclose(strong, exact, rtol=1e-8)
    np.testing.assert_allclose(strong, first_order, rtol=1e-5)


def test_the_gauss_newton_matrix_keeps_a_held_task_definite_where_its_hessian_is_not():
    bent = Model(MODEL.init, lambda params, x: jnp.tanh(3 * x @ params))
    stage = Stage(objectives.squared_error(objectives.whole(bent)), optax.sgd(0.0))
    state, batches = stages.start(stage, jnp.asarray(PHI)), (jnp.asarray(X[:1]), jnp.asarray(Y[:1]))

    def report(curvature):
        fit = hypergrad.proximal(stage, 1e-3, solvers.cg(20), curvature=curvature)
        end = lambda report: fit(state, None, batches, jax.random.key(0), report)[0].params.sum()
        return jax.grad(end)(SolveInfo.blank())

    assert report(None).negative_curvature == 1
    definite = report(objectives.squared_error(hypergrad.linearized(objectives.whole(bent))))
    assert definite.negative_curvature == 0 and definite.residual < 1e-6


@pytest.mark.slow
def test_on_drawings_the_solve_is_near_the_exact_gradient_and_the_identity_in_its_place_is_not(shared_data):
    """Against differentiation through 300 steps of the held training: three tasks, 5-way 1-shot, the network of `omniglot`."""
    small = data.omniglot(shared_data).x.reshape(160, 20, 14, 2, 14, 2).mean((3, 5)).reshape(160, 20, 196)
    support, query = data.draw_episodes(jax.random.key(1), jnp.asarray(small), 3, ways=5, shots=1, queries=5)
    plain = models.mlp(196, (64, 64), jnp.tanh)
    encoder = Model(plain.init, lambda params, x: jnp.tanh(plain.apply(params, x)))
    model = models.with_head(encoder, models.linear(64, 5))
    phi, loss = model.init(jax.random.key(0)), objectives.cross_entropy(objectives.whole(model))
    at = lambda params, examples: loss(params, None, None, examples, jax.random.key(0))[0]

    def exact(support, query):
        def end(phi):
            held = lambda params: at(params, support) + optax.tree.norm(optax.tree.sub(params, phi), squared=True)
            step = lambda params, _: (optax.tree.add_scale(params, -0.1, jax.grad(held)(params)), None)
            return at(jax.lax.scan(step, phi, length=300)[0], query)

        return jax.grad(end)(phi)

    expected = jax.tree.map(lambda a: a.mean(0), jax.jit(jax.vmap(exact))(support, query))

    def error(solve):
        made = recipes.imaml.imaml(model, optax.sgd(0.1), optax.sgd(1.0), strength=2.0, solve=solve)
        held = jax.tree.map(lambda a: jnp.broadcast_to(a, (64, *a.shape)), support)
        state = made.start(jax.random.key(0))._replace(phi=phi)
        moved = jax.jit(made.algorithm.step)(state, Batches(None, held, query), jax.random.key(0))[0].phi
        return optax.tree.norm(optax.tree.sub(optax.tree.sub(phi, moved), expected)) / optax.tree.norm(expected)

    assert error(solvers.cg(5)) <= 0.1 and error(solvers.neumann(0, step=1 / 2.0)) >= 0.2


def test_the_start_is_learned_and_the_training_of_tasks_begins_there_every_time():
    made = recipes.maml.maml(MODEL, optax.sgd(RATE), optax.sgd(0.05), objectives.squared_error)
    support = jax.tree.map(lambda a: jnp.broadcast_to(a, (STEPS, *a.shape)), (jnp.asarray(X), jnp.asarray(Y)))
    draw = lambda key: Batches(None, support, (jnp.asarray(QX), jnp.asarray(QY)))
    state, info = run(made.algorithm.step, draw, made.start(jax.random.key(0)), jax.random.key(1), jnp.arange(300))
    U = _power(EYE - RATE * A, STEPS)
    # Least squares in phi: mean_i |Q_i (c_i + U_i (phi - c_i)) - y_i|^2.
    best = np.linalg.solve((U @ B @ U).mean(0), (U @ (B @ U @ C - _query_gradient(C))).mean(0))
    trained, found = np.asarray(info.validation_loss), np.asarray(state.phi)
    assert trained[-1] < trained[0] and np.linalg.norm(found - best) < 0.3 * np.linalg.norm(PHI - best)


def test_episodes_have_the_named_classes_no_example_twice_and_repeat_themselves():
    classes, of_each, ways, shots, queries = 7, 6, 5, 2, 3
    examples = jnp.arange(classes * of_each * 2).reshape(classes, of_each, 2)
    draw = jax.jit(lambda key: data.draw_episodes(key, examples, 40, ways, shots, queries))
    support, query = draw(jax.random.key(0))
    assert support.x.shape == (40, ways * shots, 2) and query.x.shape == (40, ways * queries, 2)
    number, orders = lambda x: np.asarray(x)[..., 0] // 2, set()
    for task in range(40):
        used = np.concatenate([number(support.x[task]), number(query.x[task])])
        assert len(set(used.tolist())) == ways * (shots + queries)
        of = {}
        for x, y in (support, query):
            for image, name in zip(number(x[task]), np.asarray(y[task]), strict=True):
                assert of.setdefault(int(name), image // of_each) == image // of_each
        assert sorted(of) == list(range(ways)) and len(set(of.values())) == ways
        assert np.bincount(np.asarray(support.y[task])).tolist() == [shots] * ways
        assert np.bincount(np.asarray(query.y[task])).tolist() == [queries] * ways
        orders.add(tuple(of[name] for name in range(ways)))
    assert len(orders) > 30 and set().union(*orders) == set(range(classes))
    again, other = draw(jax.random.key(0)), draw(jax.random.key(1))
    assert np.array_equal(again.support.x, support.x) and not np.array_equal(other.support.x, support.x)
    with pytest.raises(ValueError, match="ways=8 must be at most the 7 classes"):
        data.draw_episodes(jax.random.key(0), examples, 1, 8, 1, 1)
    with pytest.raises(ValueError, match="sum to 7, but must to at most the 6"):
        data.draw_episodes(jax.random.key(0), examples, 1, 2, 4, 3)
    with pytest.raises(ValueError, match="'shots': 0"):
        data.draw_episodes(jax.random.key(0), examples, 1, 2, 0, 3)


def test_a_sinusoid_is_one_function_for_support_and_query():
    support, query = data.draw_sinusoids(jax.random.key(0), 20, 4, 3)
    x = np.concatenate([support.x, query.x], axis=1)
    y = np.concatenate([support.y, query.y], axis=1)
    basis = np.concatenate([np.sin(x), np.cos(x)], axis=2)  # a sin(x - b) = a cos b sin x - a sin b cos x
    for task in range(20):
        (p, q), *_ = np.linalg.lstsq(basis[task], y[task, :, 0])
        np.testing.assert_allclose(basis[task] @ (p, q), y[task, :, 0], atol=1e-9)
        assert 0.1 <= np.hypot(p, q) <= 5 and q <= 0 and np.abs(x).max() <= 5
    with pytest.raises(ValueError, match="shots=0"):
        data.draw_sinusoids(jax.random.key(0), 1, 0, 1)


def test_omniglot_reads_what_it_documents_and_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.delenv("METAPT_DATA", raising=False)
    pixels = RNG.integers(0, 2, (4, 3, 784), dtype=np.uint8)
    good = {"bits": np.packbits(pixels, axis=-1), "alphabet": np.array([0, 0, 1, 1]), "alphabet_names": ["a", "b"]}

    def read(**changed):
        np.savez(tmp_path / "omniglot28.npz", **good | changed)
        return data.omniglot(tmp_path)

    characters = read()
    np.testing.assert_array_equal(characters.x.reshape(4, 3, 784), pixels)
    assert characters.alphabet.tolist() == [0, 0, 1, 1] and characters.names == ("a", "b")
    for changed, message in (
        ({"bits": good["bits"][..., :97]}, r"bits is uint8 \[4, 3, 97\], but must be uint8 \[C, M, 98\]"),
        ({"alphabet": np.zeros(3, int)}, r"alphabet is int64 \[3\], but must be integer \[4\]"),
        ({"alphabet": np.array([0, 0, 1, 2])}, r"alphabet has values 0\.\.2"),
    ):
        with pytest.raises(ValueError, match=message):
            read(**changed)
    with pytest.raises(ValueError, match="omniglot: no data given: give --data PATH or METAPT_DATA"):
        data.omniglot()
    with pytest.raises(ValueError, match="there is no file"):
        data.omniglot(tmp_path / "nowhere")
