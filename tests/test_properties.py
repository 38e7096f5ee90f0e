"""Laws that hold for every hypergradient, at random problems; and parts of a data set that never overlap."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

from metapt import Stage, data, hypergrad, solvers, stages
from metapt.io import configs, runner
from metapt.io.experiment import Experiment
from metapt.io.folder import RunFolder
from tests.oracles import plain
from tests.test_interruption import CONFIG

EXAMPLES = settings(max_examples=15, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
RULES = {
    "unroll": hypergrad.unroll,
    "implicit": lambda stage: hypergrad.implicit(
        stage, solvers.neumann(8, step=0.05)
    ),  # linear, as cg is not before it is done
}


def _loss(p, c, b):
    """Task weights `c["weights"]`, a ridge `c["ridge"]`; `c["unused"]` plays no part."""
    x, y = b
    by_task = jnp.mean((x @ p["w"] - y) ** 2 + (x @ p["v"]) ** 2 / 2, axis=0)
    return by_task @ c["weights"] + jnp.exp(c["ridge"]) * sum(jnp.sum(leaf**2) for leaf in p.values())


def _pull(rule):
    """(seed or data, cotangent) -> hypergradient: one program for all examples."""
    stage = Stage(lambda p, c, extra, b, key: (_loss(p, c, b), extra), optax.sgd(0.05))
    fit = rule(stage)

    @jax.jit
    def pull(params, context, batch, cotangent):
        batches = jax.tree.map(lambda a: jnp.broadcast_to(a, (8, *a.shape)), batch)
        end = lambda c: fit(stages.start(stage, params), c, batches, jax.random.key(0))[0].params
        return jax.vjp(end, context)[1](cotangent)[0]

    return pull


PULLS = {name: _pull(rule) for name, rule in RULES.items()}


def _problem(seed):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(3, 2)), "v": rng.normal(size=(3, 2))}
    context = {"weights": rng.uniform(0.2, 1.0, 2), "ridge": rng.normal(), "unused": rng.normal(size=2)}
    batch = rng.normal(size=(10, 3)), rng.normal(size=(10, 2))
    cotangents = [{name: rng.normal(size=(3, 2)) for name in params} for _ in range(2)]
    return jax.tree.map(jnp.asarray, (params, context, batch, *cotangents))


def _close(found, expected, rtol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-11), found, expected)


@pytest.mark.parametrize("rule", RULES)
@given(SEEDS, st.floats(-3, 3), st.floats(-3, 3))
@EXAMPLES
def test_a_hypergradient_is_linear_in_the_outer_cotangent(rule, seed, a, b):
    params, context, batch, u, v = _problem(seed)
    pull = lambda t: PULLS[rule](params, context, batch, t)
    mixed = jax.tree.map(lambda x, y: a * x + b * y, u, v)
    _close(pull(mixed), jax.tree.map(lambda x, y: a * x + b * y, pull(u), pull(v)), rtol=1e-8)
    assert not pull(u)["unused"].any()  # zero where nothing depends on it


@pytest.mark.parametrize("rule", RULES)
@given(SEEDS)
@EXAMPLES
def test_neither_the_order_of_the_tree_nor_that_of_the_batch_counts(rule, seed):
    params, context, batch, u, _ = _problem(seed)
    order = np.random.default_rng(seed).permutation(10)
    expected = PULLS[rule](params, context, batch, u)
    _close(PULLS[rule](params, context, jax.tree.map(lambda a: a[order], batch), u), expected)
    backwards = lambda tree: dict(reversed(tree.items()))
    _close(PULLS[rule](backwards(params), backwards(context), batch, backwards(u)), expected, rtol=0)
    tasks = jnp.array([1, 0])  # the tasks are alike: with their columns their weights change places
    turned = {name: leaf[:, tasks] for name, leaf in params.items()}, context | {"weights": context["weights"][tasks]}
    found = PULLS[rule](*turned, (batch[0], batch[1][:, tasks]), {name: leaf[:, tasks] for name, leaf in u.items()})
    _close(found | {"weights": found["weights"][tasks]}, expected)


@given(SEEDS, st.floats(0.1, 10))
@EXAMPLES
def test_scaling_laws(seed, scale):
    """Of implicit differentiation where training rests, p* = argmin: a factor of the whole loss drops out, and weights and
    ridge together move nothing."""
    rng = np.random.default_rng(seed)
    A, c, u = rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=3)
    H = A @ A.T + np.eye(3)
    rest = np.linalg.solve(H, A @ c)
    expected = np.linalg.solve(H, A).T @ u
    found = _quadratic(jnp.asarray(H), jnp.asarray(A), jnp.asarray(rest), jnp.asarray(c), jnp.asarray(u), scale)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    np.testing.assert_allclose(_quadratic(H, A, rest, c, scale * u, scale), scale * expected, rtol=1e-8)


@jax.jit
def _quadratic(H, A, rest, c, u, scale):
    stage = Stage(plain(lambda p, c: scale * (0.5 * p @ H @ p - p @ A @ c)), optax.sgd(0.0))
    fit = hypergrad.implicit(stage, solvers.dense())
    end = lambda c: fit(stages.start(stage, rest), c, jnp.zeros(1), jax.random.key(0))[0].params
    return jax.vjp(end, c)[1](u)[0]


# --- parts of a data set ---


def _disjoint(parts):
    together = np.concatenate(list(parts.values()))
    assert len(np.unique(together)) == len(together)


@given(SEEDS, st.integers(4, 60), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_parts_never_share_an_example_a_patient_or_a_scaffold(seed, n, groups):
    rng = np.random.default_rng(seed)
    sizes = {"train": 1 + n // 4, "validation": 1, "test": n // 4}
    parts = data.split(rng, n, sizes)
    _disjoint(parts)
    assert {name: len(rows) for name, rows in parts.items()} == sizes
    group = rng.integers(0, groups, n)
    by_scaffold = data.scaffold_split(rng, group, {"train": 0.5, "test": 0.3})
    _disjoint(by_scaffold)
    assert not np.intersect1d(group[by_scaffold["train"]], group[by_scaffold["test"]]).size
    fold = 1 + rng.permutation(groups + 9)[group] % 10  # a patient's records in one fold
    try:
        by_fold = data.fold_split(fold, group)
        picked = data.finetune_split(rng, by_fold["pretrain"], group, min(6, len(by_fold["pretrain"])))
    except ValueError:
        return  # no record in a part, or too few patients: refused, not leaked
    _disjoint(by_fold)
    _disjoint(picked)
    assert not np.intersect1d(group[by_fold["pretrain"]], group[by_fold["test"]]).size
    assert not np.intersect1d(group[picked["train"]], group[picked["validation"]]).size
    assert np.isin(np.concatenate(list(picked.values())), by_fold["pretrain"]).all()


class _Watched:
    """A test set that counts who asks for it."""

    def __init__(self, experiment):
        self.experiment, self.reads = experiment, []

    def __getattr__(self, name):
        if name == "test":
            self.reads.append(self.at())
        return getattr(self.experiment, name)


def test_the_test_set_is_read_once_at_the_end(tmp_path, monkeypatch):
    module = configs.load(CONFIG)
    with jax.enable_x64(False):
        experiment: Experiment = module.experiment(module.Config(outer_steps=10))
    logs, curves = [], []
    for i, test in enumerate((experiment.test, jax.tree.map(lambda a: a + jnp.nan, experiment.test))):
        folder = RunFolder(tmp_path / str(i))
        folder.path.mkdir()
        watched = _Watched(experiment._replace(test=test, plots=lambda outcome: curves.append(outcome.curves) or {}))
        watched.at = lambda folder=folder: len(folder.read_metrics())
        monkeypatch.setattr(folder, "write_json", lambda *_: None)
        with jax.enable_x64(False):
            result = runner.run_experiment(watched, "tiny", 0, folder, quiet=True)
        assert watched.reads == [20]  # once, when every outer step of both arms was done
        assert np.isnan(result["arms"]["meta"]["mean"]) == bool(i)
        logs.append(folder.metrics.read_text())
    assert logs[0] == logs[1] and curves[0] == curves[1]  # another test set changes nothing before its own scores
