"""Graphs: batches, networks, masked losses, gradient surgery, readers; each against plain arrays computed another way."""

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import roc_auc_score

from metapt import Stage, data, meta, models, objectives, optimizers, recipes, stages
from metapt.data.molecules import ATOM_SIZES, BOND_SIZES
from metapt.types import Batches

SIZES = [3, 5, 1, 4]
CONVOLUTIONS = ["gin", "gcn", "sage"]


def _graphs(features=2, edge_features=3):
    """Four random graphs; the third is a lone node."""
    rng = np.random.default_rng(0)
    nodes = [rng.normal(size=(n, features)) for n in SIZES]
    pairs = [np.array([(i, i + 1) for i in range(n - 1)] + [(0, n - 1)] * (n > 3)).reshape(-1, 2) for n in SIZES]
    edges = [rng.normal(size=(len(p), edge_features)) for p in pairs]
    return data.undirected(nodes, pairs, edges, centre=[0, 2, 0, 3]), nodes, pairs, edges


def _float64(tree):
    return jax.tree.map(lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def _network(**options):
    model = models.graph_network(2, 3, width=4, layers=2, **{"dropout": 0.0, **options})
    return model, *_float64(model.init(jax.random.key(0)))


def test_a_batch_holds_the_graphs_it_was_asked_for():
    graphs, nodes, pairs, edges = _graphs()
    batch = graphs.batch(jnp.array([3, 0, 1]), nodes=15, edges=30)
    np.testing.assert_array_equal(batch.nodes[:12], np.concatenate([nodes[3], nodes[0], nodes[1]]))
    np.testing.assert_array_equal(batch.graph, [0] * 4 + [1] * 3 + [2] * 5 + [3] * 3)
    np.testing.assert_array_equal(batch.centre, [3, 4 + 0, 7 + 2])
    shifted = np.concatenate([pairs[3], pairs[0] + 4, pairs[1] + 7])
    both = np.stack([shifted, shifted[:, ::-1]], 1).reshape(-1, 2)
    np.testing.assert_array_equal(np.stack([batch.senders, batch.receivers], 1)[: len(both)], both)
    np.testing.assert_array_equal(batch.edges[: len(both) : 2], np.concatenate([edges[3], edges[0], edges[1]]))
    assert (batch.receivers[len(both) :] == 15).all() and batch.present.all()


def test_a_graph_that_does_not_fit_is_left_out_whole_and_its_labels_are_absent():
    graphs, *_ = _graphs()
    batch = graphs.batch(jnp.array([1, 3, 0]), nodes=10, edges=99)
    assert batch.present.tolist() == [True, True, False] and not (batch.graph == 2).any()
    assert graphs.batch(jnp.array([1, 3, 0]), nodes=99, edges=12).present.tolist() == [True, False, False]
    (_, y) = data.draw_graphs(jax.random.key(0), graphs, jnp.array([1]), jnp.ones((4, 2)), 3, 2, (5, 10))
    np.testing.assert_array_equal(y, np.broadcast_to([[1.0, 1.0], [-1.0, -1.0]], (3, 2, 2)))


def test_a_graph_that_is_not_there_takes_no_slot():
    graphs, *_ = _graphs()
    batch, plain = (graphs.batch(jnp.array(index), nodes=12, edges=20) for index in ([-1, 3, -1, 0], [3, 0]))
    assert batch.present.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(batch.nodes, plain.nodes)
    np.testing.assert_array_equal(batch.graph, jnp.array([1, 3, 4])[plain.graph])
    np.testing.assert_array_equal(batch.receivers, plain.receivers)


@pytest.mark.parametrize("rows", [[3, 1, 2, 0, 1], [[2, 2], [1, -1]]])
def test_all_rows_come_in_batches_and_all_fit(rows):
    graphs, *_ = _graphs()
    index, room = data.in_batches(graphs, np.array(rows), 2)
    assert index.shape == (*np.shape(rows)[:-1], (np.shape(rows)[-1] + 1) // 2, 2)
    batches = index.reshape(-1, 2)
    assert [row for row in batches.ravel() if row >= 0] == [row for row in np.ravel(rows) if row >= 0]
    for batch in batches:
        assert (graphs.batch(jnp.asarray(batch), *room).present == (batch >= 0)).all()
    assert room[0] == max(sum(SIZES[row] for row in batch if row >= 0) for batch in batches)


def test_batches_of_different_graphs_compile_once():
    graphs, *_ = _graphs()
    batch = jax.jit(lambda index: graphs.batch(index, 12, 24))
    for index in ([0, 1], [2, 2], [3, 1]):
        batch(jnp.array(index))
    assert batch._cache_size() == 1


def test_edges_that_lead_nowhere_are_refused():
    with pytest.raises(ValueError, match=r"graph 1: edges name nodes 0\.\.2, but must stay in 0\.\.1"):
        data.undirected([np.ones((2, 1))] * 2, [[[0, 1]], [[0, 2]]])


@pytest.mark.parametrize("mode", ["batch", "frozen", "running"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_padding_and_order_change_nothing(convolution, mode):
    graphs, *_ = _graphs()
    model, params, extra = _network(convolution=convolution)
    run = lambda index, room: model.apply(params, extra, graphs.batch(jnp.array(index), *room), jax.random.key(1), mode)
    tight, tight_extra = run([0, 1, 3], (12, 24))
    wide, wide_extra = run([3, 0, 1], (40, 60))
    np.testing.assert_allclose(wide, tight[jnp.array([2, 0, 1])], rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), tight_extra, wide_extra)
    moved = any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (extra, wide_extra)), strict=True))
    assert moved == (mode == "batch")


def _dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def _normalise(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_one_layer_is_what_its_paper_says(convolution):
    """With adjacency matrices and loops over neighbours instead of sums over segments."""
    graphs, (_, x, *_), (_, pairs, *_), (_, e, *_) = _graphs()
    model = models.graph_network(2, 3, width=4, layers=1, convolution=convolution, readout="node")
    params, extra = _float64(model.init(jax.random.key(0)))
    out, _ = model.apply(params, extra, graphs.batch(jnp.array([1]), 7, 20), jax.random.key(0), "batch")
    p = jax.tree.map(np.asarray, params)
    x = _dense(p["Dense_0"], x)
    kernel = p["Dense_1" if convolution != "gcn" else "Dense_2"]["kernel"]
    neighbours = {i: [] for i in range(5)}
    for (a, b), features in zip(pairs, e, strict=True):
        embedded = np.append(features, 1.0)
        neighbours[a].append((b, embedded))
        neighbours[b].append((a, embedded))
    degree = np.array([len(neighbours[i]) for i in range(5)])
    rows = []
    for i in range(5):
        if convolution == "gin":
            embed = lambda f: f @ p["Dense_1"]["kernel"]
            own = np.concatenate([x[i], p["Dense_1"]["bias"]])
            rows.append(own + sum(np.concatenate([x[j], embed(f)]) for j, f in neighbours[i]))
        elif convolution == "gcn":
            h = _dense(p["Dense_1"], x)
            scale = lambda j, i=i: 1 / np.sqrt((degree[i] + 1) * (degree[j] + 1))
            rows.append(h[i] * scale(i) + sum(scale(j) * (h[j] + f @ kernel) for j, f in neighbours[i]))
        else:
            mean = sum(x[j] + f @ kernel for j, f in neighbours[i]) / degree[i]
            z = _dense(p["Dense_2"], np.concatenate([x[i], mean]))
            rows.append(z / np.linalg.norm(z))
    expected = np.stack(rows)
    if convolution == "gin":
        hidden = np.maximum(_normalise(_dense(p["Dense_2"], expected)), 0)
        expected = _dense(p["Dense_3"], hidden)
    np.testing.assert_allclose(out[:5], _normalise(expected), rtol=1e-8, atol=1e-10)


def test_readouts_are_the_mean_and_the_central_node():
    graphs, *_ = _graphs()
    batch = graphs.batch(jnp.array([1, 3]), 12, 30)
    outs = {}
    for readout in ("node", "mean", "mean_and_centre"):
        model, params, extra = _network(readout=readout)
        outs[readout], _ = model.apply(params, extra, batch, jax.random.key(0), "running")
    nodes = outs["node"]
    np.testing.assert_allclose(outs["mean"], jnp.stack([nodes[:5].mean(0), nodes[5:9].mean(0)]), rtol=1e-12)
    centres = nodes[jnp.array([2, 5 + 3])]
    np.testing.assert_allclose(outs["mean_and_centre"], jnp.concatenate([outs["mean"], centres], 1), rtol=1e-12)


def test_dropout_follows_the_key_in_training_and_is_off_in_evaluation():
    graphs, *_ = _graphs()
    model, params, extra = _network(dropout=0.5)
    batch = graphs.batch(jnp.array([0, 1]), 8, 20)
    run = lambda mode, seed: model.apply(params, extra, batch, jax.random.key(seed), mode)[0]
    for mode in ("batch", "frozen"):
        assert (run(mode, 0) == run(mode, 0)).all() and (run(mode, 0) != run(mode, 1)).any()
    assert (run("running", 0) == run("running", 1)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convolution": "gat"}, "convolution='gat' is not one of 'gin', 'gcn', 'sage'"),
        ({"readout": "sum"}, "readout='sum' is not one of"),
        ({"dropout": 1.0}, "dropout=1.0 from 0 to below 1"),
        ({"layers": 0}, "layers=0 must be at least 1"),
    ],
)
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.graph_network(1, 0, **options)


def test_the_published_size_of_the_network():
    """2,726,100 parameters without batch normalisation and edge biases, as counted in the reference, are within 1 % of ours."""
    params, _ = models.graph_network(1, 9).init(jax.random.key(0))
    assert abs(sum(leaf.size for leaf in jax.tree.leaves(params)) / 2_726_100 - 1) < 0.01


def test_the_area_under_the_curve_is_that_of_scikit_learn(key):
    scores = jnp.round(jax.random.normal(key, (60, 5)), 1)  # with ties
    y = jax.random.randint(jax.random.key(1), (60, 5), -1, 2)
    y = y.at[:, 4].set(1)  # a task of one class
    expected = [roc_auc_score(y[y[:, t] >= 0, t], scores[y[:, t] >= 0, t]) for t in range(4)]
    found = objectives.auroc(scores, y)
    np.testing.assert_allclose(found[:4], expected, rtol=1e-12)
    assert jnp.isnan(found[4]) and jnp.isnan(objectives.auroc(scores.at[7, 2].set(jnp.nan), y)).tolist() == [
        0,
        0,
        1,
        0,
        1,
    ]


def test_only_measured_labels_count(key):
    logits, weights = jax.random.normal(key, (6, 4)), jnp.array([1.0, 0.0, 2.0, 0.5])
    y = jax.random.randint(jax.random.key(1), (6, 4), -1, 2)
    objective = objectives.weighted_tasks(objectives.stateless(lambda params, context, x: params))
    loss = lambda params, y: objective(params, weights, None, (None, y), None)[0]
    terms = [
        float(weights[t]) * np.log1p(np.exp(-z if label else z))
        for z, label, t in zip(np.ravel(logits), np.ravel(y), [0, 1, 2, 3] * 6, strict=True)
        if label >= 0
    ]
    np.testing.assert_allclose(loss(logits, y), np.sum(terms) / (y >= 0).sum(), rtol=1e-12)
    assert (jax.grad(loss)(logits, y)[y < 0] == 0).all()
    assert loss(logits, jnp.full((6, 4), -1)) == 0.0


def test_gradient_surgery_is_the_published_loop():
    rng = np.random.default_rng(0)
    g = {"shared": jnp.asarray(rng.normal(size=(2, 3, 2))), "own": jnp.asarray(rng.normal(size=(2, 4)))}
    g["shared"] = g["shared"].at[1].set(-0.5 * g["shared"][0] + 0.3 * g["shared"][1])  # they conflict
    project = optimizers.pcgrad({"shared": True, "own": False})
    updates, _ = project.update(g, project.init(g))
    a, b = (np.ravel(g["shared"][i]) for i in range(2))
    assert a @ b < 0
    expected = a - (a @ b) / (b @ b) * b + b - (a @ b) / (a @ a) * a
    np.testing.assert_allclose(np.ravel(updates["shared"][0]), expected, rtol=1e-12)
    np.testing.assert_allclose(updates["own"], np.tile(g["own"].sum(0), (2, 1)), rtol=1e-12)
    agreeing = {**g, "shared": jnp.abs(g["shared"])}
    plain, _ = project.update(agreeing, project.init(g))
    np.testing.assert_allclose(plain["shared"][0], agreeing["shared"].sum(0), rtol=1e-12)


def test_three_losses_are_projected_one_after_the_other():
    """One of the orders that the random order can take gives the result, each loss with an order of its own."""
    g = jnp.array([[1.0, 0.2, 0.0], [-0.9, 0.5, 0.1], [-0.3, -1.0, 0.4]])
    project = optimizers.pcgrad()
    updates, state = project.update(g, project.init(g))

    def projected(i, order):
        v = g[i]
        for j in order:
            v = v - jnp.minimum(v @ g[j], 0.0) / (g[j] @ g[j]) * g[j] if j != i else v
        return v

    others = {0: ((1, 2), (2, 1)), 1: ((0, 2), (2, 0)), 2: ((0, 1), (1, 0))}
    sums = [
        projected(0, p) + projected(1, q) + projected(2, r) for p in others[0] for q in others[1] for r in others[2]
    ]
    assert min(abs(np.asarray(total - updates[0])).max() for total in sums) < 1e-12
    assert (state.key_data != project.init(g).key_data).any()


def test_copies_of_the_parameters_stay_equal_under_gradient_surgery(key):
    targets = jnp.array([[1.0, 0.0], [-1.0, 2.0]])

    def objective(copies, context, extra, batch, key):
        return jnp.sum((copies - targets) ** 2), extra  # loss i sees copy i

    stage = Stage(objective, optax.chain(optimizers.pcgrad(), optax.adam(0.1)))
    start = stages.start(stage, optimizers.replicate(jnp.array([3.0, 3.0]), 2))
    state, _ = stages.trainer(stage)(start, None, jnp.zeros(300), jax.random.split(key, 300))
    np.testing.assert_array_equal(state.params[0], state.params[1])
    # It comes to rest where the losses only conflict: on the line between their minima.
    x, y = optimizers.merge(state.params)
    assert 0 < x < 1 and abs(x + y - 1) < 1e-3


@pytest.mark.parametrize("transfer", ["head", "network"])
def test_hypergradient_of_task_weights_reaches_through_fine_tuning_on_graphs(transfer):
    """The part behind pre-training, against central differences: the derivative of the validation loss in the encoder."""
    graphs, *_ = _graphs()
    encoder = models.graph_network(2, 3, width=4, layers=2, readout="mean", dropout=0.0)
    pieces = recipes.task_weights.task_weights(
        encoder,
        features=4,
        tasks=3,
        classes=2,
        meta=meta.softmax_weights(3),
        pretrain_optimizer=optax.adam(1e-2),
        finetune_optimizer=optax.sgd(0.5, momentum=0.9),
        meta_optimizer=optax.sgd(1.0),
        loss=objectives.binary_tasks,
        transfer=transfer,
    )
    batch = lambda index, tasks: (
        graphs.batch(jnp.array(index), 13, 30),
        jax.random.randint(jax.random.key(len(index)), (len(index), tasks), -1, 2),
    )
    repeat = lambda tree, n: jax.tree.map(lambda a: jnp.broadcast_to(a, (n, *a.shape)), tree)
    batches = Batches(repeat(batch([0, 1, 3], 3), 2), repeat(batch([1, 3, 0], 2), 3), batch([0, 3], 2))
    state = _float64(pieces.start(jax.random.key(0), jnp.zeros(3)))
    moved, info = pieces.algorithm.step(state, batches, jax.random.key(1))
    assert float(info.hypergradient_norm) > 1e-8 and not bool(info.skipped) and (moved.phi != 0).all()

    direction = jax.tree.map(
        lambda a: jax.random.normal(jax.random.key(a.size), a.shape, a.dtype), state.pretrain.params
    )

    def loss(step):
        """Of fine-tuning from an encoder a little off, as `transfer` passes it on."""
        params = jax.tree.map(lambda p, d: p + step * d, state.pretrain.params, direction)
        pretrained = state.pretrain._replace(params=params)
        return pieces.algorithm.downstream(pretrained, state.finetune, None, batches, jax.random.key(2))

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(0.0), slope, rtol=1e-6)


def _molecule_file(folder, **changed):
    arrays = {
        "atoms": np.array([[6, 0, 8, 3, 0], [8, 1, 9, 0, 1], [7, 0, 8, 0, 0]], np.uint8),
        "atom_offsets": np.array([0, 2, 3]),
        "bonds": np.array([[0, 1, 3, 1]], np.uint8),
        "bond_offsets": np.array([0, 1, 1]),
        "y": np.array([[1, -1], [0, 1]], np.int8),
        "scaffold": np.array([4, 4]),
        "task_names": np.array(["a", "b"]),
    }
    np.savez(folder / "mol_tox21.npz", **{**arrays, **changed})


def test_molecules_are_read(tmp_path):
    _molecule_file(tmp_path)
    found = data.molecules("tox21", tmp_path)
    assert found.graphs.ends.tolist() == [[0, 1], [1, 0]] and found.graphs.edges.tolist() == [[3, 1]] * 2
    assert found.graphs.node_start.tolist() == [0, 2, 3] and found.graphs.edge_start.tolist() == [0, 2, 2]
    assert found.y.tolist() == [[1, -1], [0, 1]] and found.task_names == ("a", "b")
    indicators = data.one_hot(jnp.asarray(found.graphs.nodes), ATOM_SIZES)
    assert indicators.shape == (3, sum(ATOM_SIZES)) and (indicators.sum(1) == 5).all() and indicators[0, 6] == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y": np.array([[2, 0], [0, 1]], np.int8)}, "y is .* but must be 1, 0 or -1"),
        ({"atom_offsets": np.array([0, 3, 2])}, "atom_offsets must rise from 0 to 3 in 3 numbers"),
        ({"atoms": np.full((3, 5), 200, np.uint8)}, "the columns of atoms must be categories below"),
        ({"bonds": np.array([[0, 2, 0, 0]], np.uint8)}, r"graph 0: edges name nodes 0\.\.2"),
    ],
)
def test_broken_molecules_are_refused(tmp_path, changed, message):
    _molecule_file(tmp_path, **changed)
    with pytest.raises(ValueError, match=message):
        data.molecules("tox21", tmp_path)


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("METAPT_DATA", raising=False)
    with pytest.raises(ValueError, match="molecules: no data given: give --data PATH or METAPT_DATA with mol_sider"):
        data.molecules("sider")
    with pytest.raises(ValueError, match="name='tox' is not one of"):
        data.molecules("tox", tmp_path)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="ppi_tissues: there is no file"):
        data.ppi_tissues(tmp_path)
    (tmp_path / "ppi_brain_tissues.npz").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"is no \.npz archive, or damaged"):
        data.ppi_tissues(tmp_path)


def test_equal_molecules_have_one_number_and_others_their_own():
    rng = np.random.default_rng(0)
    atoms = rng.integers(1, 8, (6, 5)).astype(np.uint8)
    bonds, kinds = (
        np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0], [2, 5]]),
        rng.integers(0, 4, (6, 2)).astype(np.uint8),
    )
    number = lambda atoms, bonds, kinds: int(data.molecule_hash(data.undirected([atoms], [bonds], [kinds]))[0])
    first, order = number(atoms, bonds, kinds), rng.permutation(6)
    place = np.argsort(order)
    assert number(atoms[order], place[bonds][::-1, ::-1], kinds[::-1]) == first
    atoms[5, 1] += 1
    assert number(atoms, bonds, kinds) == first  # stereochemistry
    for column in (0, 2, 3, 4):
        other = atoms.copy()
        other[5, column] += 1
        assert number(other, bonds, kinds) != first
    other = kinds.copy()
    other[5, 0] += 1
    assert number(atoms, bonds, other) != first and number(atoms, np.append(bonds[:5], [[3, 5]], 0), kinds) != first


def test_scaffolds_stay_together_and_the_common_ones_go_first():
    rng = np.random.default_rng(0)
    scaffold = np.concatenate([rng.integers(0, 300, 900), np.full(200, 999)])
    parts = data.scaffold_split(rng, scaffold, {"train": 0.6, "validation": 0.2, "test": 0.2})
    sets = {name: set(scaffold[rows]) for name, rows in parts.items()}
    assert not sets["train"] & sets["validation"] and not (sets["train"] | sets["validation"]) & sets["test"]
    assert 999 in sets["train"] and sum(map(len, parts.values())) == 1100
    assert abs(len(parts["train"]) / 1100 - 0.6) < 0.02 and abs(len(parts["test"]) / 1100 - 0.2) < 0.02


def test_tissues_as_they_are(shared_data):
    tissues = data.ppi_tissues(shared_data)
    assert len(tissues.graphs.node_start) == 8 and tissues.expressed.shape == (7, 2162)
    assert tissues.expressed.sum(1).tolist() == [2068, 1559, 1452, 1833, 1469, 602, 1832]
    assert tissues.y_pretrain.shape == (2162, 400) and tissues.y_finetune.sum(0).min() >= 5
    assert len(tissues.graphs.ends) == 2 * 113031 and tissues.family_names[tissues.family[0]]


@pytest.mark.parametrize("name", ["tox21", "sider", "clintox", "toxcast"])
def test_molecules_as_they_are(shared_data, name):
    found = data.molecules(name, shared_data)
    assert (
        found.y.shape == {"tox21": (6290, 12), "sider": (1136, 27), "clintox": (1136, 2), "toxcast": (6741, 617)}[name]
    )
    room = data.slots(found.graphs, 64)
    index = jax.random.randint(jax.random.key(0), (20, 64), 0, len(found.y))
    batch = jax.vmap(lambda i: found.graphs.batch(i, *room))(index)
    assert batch.present.mean() > 0.97  # left out for want of room
    assert batch.real.mean() > 0.7  # slots that are not padding
    assert batch.edges.shape[-1] == len(BOND_SIZES)


def test_balanced_tasks_weigh_both_labels_alike(key):
    logits = jax.random.normal(key, (40, 3))
    y = (jax.random.uniform(jax.random.key(1), (40, 3)) < jnp.array([0.1, 0.5, 0.0])).astype(int).at[:5].set(-1)
    objective = objectives.balanced_tasks(objectives.stateless(lambda params, context, x: params))
    expected = []
    for t in range(2):  # the third has no 1
        z, label = np.asarray(logits[:, t]), np.asarray(y[:, t])
        expected.append((np.log1p(np.exp(-z[label == 1])).mean() + np.log1p(np.exp(z[label == 0])).mean()) / 2)
    np.testing.assert_allclose(objective(logits, None, None, (None, y), None)[0], np.mean(expected), rtol=1e-12)


@pytest.mark.parametrize("copies", [False, True])
def test_two_losses_together_are_their_sum_and_copies_separate_their_gradients(copies, key):
    encoder, head = models.mlp(4, (3,)), models.linear(3, 2)
    model = models.with_head(encoder, head)
    loss = objectives.binary_tasks(objectives.whole(model))
    params = _float64({**model.init(key), "second_head": head.init(jax.random.key(1))})
    batch = lambda seed: (jax.random.normal(jax.random.key(seed), (5, 4)), jnp.ones((5, 2), int))
    both = objectives.together(loss, loss, copies)
    at = optimizers.replicate(params, 2) if copies else params
    run = lambda params: both(params, None, None, (batch(0), batch(1)), key)[0]
    first = lambda p: loss({"encoder": p["encoder"], "head": p["head"]}, None, None, batch(0), key)[0]
    second = lambda p: loss({"encoder": p["encoder"], "head": p["second_head"]}, None, None, batch(1), key)[0]
    np.testing.assert_allclose(run(at), first(params) + second(params), rtol=1e-12)
    expected = [jax.grad(first)(params), jax.grad(second)(params)]
    expected = jax.tree.map(lambda a, b: jnp.stack([a, b]) if copies else a + b, *expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), jax.grad(run)(at), expected)


def test_grouped_weights_are_the_weights_with_equal_logits(key):
    group, phi = [0, 1, 1, 2], jnp.array([0.3, -1.0, 0.5])
    whole, tied = meta.softmax_weights(4), meta.grouped(meta.softmax_weights(4), group)
    assert tied.init(key).shape == (3,)
    np.testing.assert_allclose(tied.constrain(phi), whole.constrain(phi[jnp.array(group)]), rtol=1e-15)
    by_group = jax.grad(lambda phi: tied.constrain(phi)[0])(phi)
    by_task = jax.grad(lambda phi: whole.constrain(phi)[0])(phi[jnp.array(group)])
    np.testing.assert_allclose(by_group, [by_task[0], by_task[1] + by_task[2], by_task[3]], rtol=1e-12)
    with pytest.raises(ValueError, match=r"grouped: group is float64 \[2\], but must be integers from 0 on"):
        meta.grouped(whole, np.array([0.0, 1.0]))


def _linear(head, x):
    return x @ head["kernel"] + head["bias"]


def _pieces(tasks=3):
    encoder = models.mlp(4, (5,))
    return recipes.task_weights.task_weights(
        encoder,
        5,
        tasks,
        2,
        meta.softmax_weights(tasks),
        pretrain_optimizer=optax.sgd(0.1),
        finetune_optimizer=optax.sgd(0.5),
        meta_optimizer=optax.sgd(0.1),
        loss=objectives.binary_tasks,
    )


def _labelled(steps, tasks, seed):
    keys = jax.random.split(jax.random.key(seed))
    return jax.random.normal(keys[0], (steps, 8, 4)), jax.random.bernoulli(keys[1], 0.5, (steps, 8, tasks)).astype(
        float
    )


def test_cosine_weights_are_cosines_of_single_gradients(key):
    pieces = _pieces()
    pretrained = _float64(pieces.start_pretrain(key))
    validation = jax.tree.map(lambda a: a[0], _labelled(1, 2, 3))
    batches = Batches(_labelled(2, 3, 1), _labelled(1, 2, 2), validation)
    found = recipes.gradient_cosine.gradient_cosine(pieces, 3)(pretrained, batches, key)

    # By hand: the head after one step from zero, its validation loss, one task and one batch at a time.
    features = lambda encoder, x: models.mlp(4, (5,)).apply(encoder, x)
    bce = lambda z, y: optax.sigmoid_binary_cross_entropy(z, y).mean()

    def validation_loss(encoder):
        x, y = (a[0] for a in batches.finetune)
        loss = lambda head: bce(features(encoder, x) @ head[0] + head[1], y)
        start = jnp.zeros((5, 2)), jnp.zeros(2)
        w, b = jax.tree.map(lambda p, g: p - 0.5 * g, start, jax.grad(loss)(start))
        return bce(features(encoder, validation[0]) @ w + b, validation[1])

    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    encoder, head = pretrained.params["encoder"], pretrained.params["head"]
    wanted = flat(jax.grad(validation_loss)(encoder))
    cosines = np.zeros(3)
    for task in range(3):
        for x, y in zip(*batches.pretrain, strict=True):
            loss = lambda e, x=x, y=y, t=task: bce(_linear(head, features(e, x))[:, t], y[:, t])
            g = flat(jax.grad(loss)(encoder))
            cosines[task] += g @ wanted / np.linalg.norm(g) / np.linalg.norm(wanted) / 2
    kept = np.maximum(cosines, 0)
    assert len(set(kept)) > 1
    np.testing.assert_allclose(found, 3 * kept / kept.sum(), rtol=1e-6)  # the head starts in float32


@pytest.mark.parametrize("surgery", [False, True])
def test_cotraining_descends_on_both_losses_at_once(key, surgery):
    pieces = _pieces()
    made = recipes.cotraining.cotraining(pieces, 5, 2, optax.sgd(0.1), surgery, objectives.binary_tasks)
    state = _float64(made.start(key))
    first, second = _labelled(1, 3, 1), _labelled(1, 2, 2)
    weights = jnp.array([0.5, 1.0, 1.5])
    before, after = (
        made.pretrained(state).params,
        made.pretrained(made.fit(state, weights, (first, second), key)[0]).params,
    )
    bce, encode = optax.sigmoid_binary_cross_entropy, models.mlp(4, (5,)).apply
    output = lambda params, head, x: _linear(params[head], encode(params["encoder"], x))
    losses = (
        lambda p: (weights * bce(output(p, "head", first[0][0]), first[1][0])).mean(),
        lambda p: bce(output(p, "second_head", second[0][0]), second[1][0]).mean(),
    )
    gradients = [jax.grad(loss)(before) for loss in losses]
    one, two = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g["encoder"])]) for g in gradients)
    if surgery and one @ two < 0:
        one, two = one - (one @ two) / (two @ two) * two, two - (one @ two) / (one @ one) * one
    moved = np.concatenate(
        [np.ravel(a - b) for a, b in zip(*(jax.tree.leaves(p["encoder"]) for p in (after, before)), strict=True)]
    )
    np.testing.assert_allclose(moved, -0.1 * (one + two), rtol=1e-9, atol=1e-14)
    for head, gradient in (("head", gradients[0]), ("second_head", gradients[1])):
        jax.tree.map(
            lambda a, b, g: np.testing.assert_allclose(a, b - 0.1 * g, rtol=1e-9, atol=1e-14),
            after[head],
            before[head],
            gradient[head],
        )
    assert jax.tree.structure(made.pretrained(state).params["encoder"]) == jax.tree.structure(
        pieces.start_pretrain(key).params["encoder"]
    )


def test_the_published_code_s_hypergradient(key):
    lr, encoder = 1e-2, models.mlp(4, (3,))
    pieces = recipes.task_weights.as_published(encoder, 3, 3, 2, lr)
    validation = jax.tree.map(lambda a: a[0], _labelled(1, 2, 3))
    batches = Batches(_labelled(1, 3, 1), _labelled(1, 2, 2), validation)
    state = _float64(pieces.start(key, jnp.array([0.2, 0.0, -0.1])))
    after, info = pieces.algorithm.step(state, batches, key)

    # By hand, with dense matrices.
    start, unflatten = jax.flatten_util.ravel_pytree(state.pretrain.params)
    bce = lambda z, y: optax.sigmoid_binary_cross_entropy(z, y).mean(0)
    (x,), (y,) = batches.pretrain
    apply = lambda params, head, x: _linear(head, encoder.apply(params["encoder"], x))
    loss = lambda flat, phi: (
        2 * jax.nn.sigmoid(phi) * bce(apply(unflatten(flat), unflatten(flat)["head"], x), y)
    ).mean()
    g = jax.grad(loss)(start, state.phi)
    theta = start - lr * g / (jnp.abs(g) + 1e-8)  # Adam's first step

    def downstream(flat):
        def head_loss(head):
            return bce(apply(unflatten(flat), head, batches.finetune[0][0]), batches.finetune[1][0]).mean()

        head = state.finetune.params
        step = lambda g: lr * g / (jnp.sqrt(g**2 + 1e-16) + 1e-8)
        head = jax.tree.map(lambda p, g: p - step(g), head, jax.grad(head_loss)(head))
        return bce(apply(unflatten(flat), head, validation[0]), validation[1]).mean()

    v, hessian = jax.grad(downstream)(theta), jax.hessian(loss)(theta, state.phi)
    p = lr * (v + (v - lr * hessian @ v))
    hypergradient = -jax.jacobian(jax.grad(loss), argnums=1)(theta, state.phi).T @ p
    np.testing.assert_allclose(info.validation_loss, downstream(theta), rtol=1e-6)  # the head starts in float32
    np.testing.assert_allclose(info.hypergradient_norm, jnp.linalg.norm(hypergradient), rtol=1e-5)
    moved = -hypergradient / (jnp.abs(hypergradient) + 1e-8)  # Adam with a learning rate of 1
    np.testing.assert_allclose(after.phi - state.phi, moved, rtol=1e-5)


def test_a_head_that_goes_on_comes_back_with_the_averages_of_pre_training(key):
    encoder = models.resnet1d(2, widths=(4,), blocks=1, kernel=3)
    pieces = recipes.task_weights.as_published(encoder, 4, 3, 2)
    labelled = lambda steps, tasks: (jax.random.normal(key, (steps, 5, 8, 2)), jnp.ones((steps, 5, tasks)))
    batches = Batches(labelled(3, 3), labelled(2, 2), jax.tree.map(lambda a: a[0], labelled(1, 2)))
    begun = _float64(pieces.start(key, jnp.zeros(3)))
    step = lambda state, number: (pieces.algorithm.step(state, batches, jax.random.fold_in(key, number))[0], None)
    scanned, _ = jax.lax.scan(step, begun, jnp.arange(2))
    once, _ = step(begun, 0)
    twice, _ = step(once, 1)
    chex.assert_trees_all_close(scanned, twice, rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_equal(once.finetune.extra, once.pretrain.extra)
    assert jnp.any(twice.finetune.params["kernel"] != once.finetune.params["kernel"])


def test_centres_without_their_offset_point_into_the_first_graphs():
    graphs, *_ = _graphs()
    batch = graphs.batch(jnp.array([3, 0, 1]), nodes=10, edges=30)
    assert batch.centre.tolist() == [3, 4, 0] and batch.present.tolist() == [True, True, False]
    assert data.misplaced_centres(batch).centre.tolist() == [3, 0, 0]
