"""The experiments on graphs, small and on made-up data: arms, who sees what, seeds side by side or one after the other."""

import json

import jax
import numpy as np
import pytest

from metapt import data
from metapt.cli import main
from metapt.data.files import write_sealed
from metapt.io import configs
from metapt.io.folder import RunFolder
from metapt.io.runner import run_experiment

GENES, TISSUES, MOLECULES = 60, 4, 90
SIZES = {
    "seeds": 2,
    "width": 4,
    "outer_steps": 4,
    "warm_up": 1,
    "pretrain_steps": 2,
    "neumann_terms": 1,
    "final_steps": 3,
    "pretrain_tissues": 2,
    "labelled_share": 0.4,
    "monitor_share": 0.2,
}
OF_SETS = ("seeds", "width", "outer_steps", "warm_up", "pretrain_steps", "neumann_terms", "final_steps")
SMALL_SETS = {name: SIZES[name] for name in OF_SETS} | {"layers": 2, "batch": 8, "finetune_batch": 16}


@pytest.fixture(autouse=True)
def _float64():
    """Float32, as a user runs it (replaces the fixture of conftest.py)."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tissues in which genes of one community interact and share their labels."""
    path = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    community = np.arange(GENES) % 3
    labels = lambda tasks: (community[:, None] == np.arange(tasks) % 3).astype(np.uint8)
    edges = []
    for _ in range(TISSUES):
        pairs = rng.integers(0, GENES, (400, 2))
        edges.append(pairs[(community[pairs[:, 0]] == community[pairs[:, 1]]) & (pairs[:, 0] < pairs[:, 1])])
    np.savez(
        path / "ppi_brain_tissues.npz",
        x=rng.integers(0, 2, (GENES, 5)).astype(np.uint8),
        y_pretrain=labels(6),
        y_finetune=labels(3),
        edges=np.concatenate(edges).astype(np.uint16),
        edge_offsets=np.cumsum([0, *map(len, edges)]),
        pretrain_group=np.array([0, 0, 0, 1, 1, 1]),
        pretrain_group_names=np.array(["first", "second"]),
    )
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Chains of carbon and oxygen, whose assays ask for their share of oxygen; the same as protein neighbourhoods."""
    path = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 7, MOLECULES)
    atoms = np.zeros((sizes.sum(), 5), np.uint8)
    atoms[:, 0] = rng.choice([6, 8], len(atoms))
    starts = np.cumsum([0, *sizes])
    bonds = np.concatenate([[(i, i + 1, 1, 0) for i in range(n - 1)] for n in sizes]).astype(np.uint8)
    oxygen = np.add.reduceat(atoms[:, 0] == 8, starts[:-1]) / sizes
    for name, tasks in (("toxcast", 8), ("sider", 4)):
        y = (oxygen[:, None] > rng.uniform(0.3, 0.7, tasks)).astype(np.int8)
        y[rng.random(y.shape) < 0.2] = -1
        np.savez(
            path / f"mol_{name}.npz",
            atoms=atoms,
            atom_offsets=starts,
            bonds=bonds,
            bond_offsets=np.cumsum([0, *(sizes - 1)]),
            y=y,
            scaffold=np.arange(MOLECULES) // 3,
            task_names=np.array([f"{'AB'[task % 2]}_{task}" for task in range(tasks)]),
        )
    pairs = [np.stack([np.arange(n - 1), np.arange(1, n)], 1) for n in sizes]
    edges = [rng.integers(0, 2, (n - 1, 9)).astype(np.uint8) for n in sizes]
    graphs = data.undirected([np.ones((n, 1), np.float32) for n in sizes], pairs, edges)
    labels = lambda tasks: (sizes[:, None] > rng.uniform(2, 6, tasks)).astype(np.uint8)
    species = np.where(np.arange(MOLECULES) % 3 == 0, 9606, 4932).astype(np.int32)
    arrays = {**graphs._asdict(), "y_pretrain": labels(6), "y_finetune": labels(3), "species": species}
    write_sealed(path / "hu_bio.npz", arrays)
    return path


def _experiment(folder, name="ppi_tissues", **fields):
    module = configs.load(name)
    sizes = SIZES if name == "ppi_tissues" else SMALL_SETS
    return module.experiment(module.Config(data=str(folder), **{**sizes, **fields}))


ARMS = ["none", "equal", "cotrain", "cotrain_pcgrad", "random", "cosine", "meta", "replay"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppi_tissues", "toxcast_sider", "hu_bio"])
def test_every_arm_runs_and_is_reported(folder, sets, tmp_path, name):
    tissues = name == "ppi_tissues"
    fields = {**(SIZES if tissues else SMALL_SETS), "seeds": 1}
    words = [word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--data", str(folder if tissues else sets), "--access", "0.5", "1"]
    assert main(["run", name, *words, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["arms"]) == ARMS
    figures = result["meta"]
    families = {"ppi_tissues": {"first", "second"}, "toxcast_sider": {"A", "B"}, "hu_bio": {"functions"}}[name]
    weights = figures["mean_weight"]  # of a softmax: their mean is 1, and these families are of one size
    assert set(weights) == families and abs(sum(weights.values()) / len(families) - 1.0) < 1e-5
    spent = figures["gradient_evaluations"]
    assert spent["cotrain"] == 2 * spent["equal"]
    assert {path.stem for path in (tmp_path / "run" / "plots").iterdir()} == {
        "weights",
        "learning_curves",
        "hypergradient",
        "gain_by_task",
        "access",
    }
    by_access = [figures["by_access"][share]["equal"]["mean"] for share in ("0.5", "1.0")]
    np.testing.assert_allclose(np.mean(by_access), result["arms"]["equal"]["mean"], rtol=1e-6)


def _rows(y):
    return set(np.flatnonzero((np.asarray(y) >= 0).any(1)).tolist())


def test_genes_and_tissues_of_the_test_are_never_seen(folder):
    experiment = _experiment(folder)
    for run in range(2):
        arrays, test = jax.tree.map(lambda a, run=run: np.asarray(a[run]), (experiment.data, experiment.test))
        tested, monitored, labelled = (
            _rows(items["y"][0]) for items in (test, arrays["monitor"], arrays["labelled_items"])
        )
        assert labelled == _rows(arrays["labelled"]) == _rows(arrays["seen"])
        assert not (tested | monitored) & (_rows(arrays["pretrain"]) | labelled) and not tested & monitored
        tissues = [set(items["tissue"].tolist()) for items in (arrays["labelled_items"], arrays["monitor"], test)]
        assert set(arrays["tissues"].tolist()) == tissues[0] == tissues[1]
        assert not tissues[0] & tissues[2] and tissues[0] | tissues[2] == set(range(TISSUES))


def test_scaffolds_of_the_test_are_never_seen_nor_are_its_molecules_in_pretraining(sets):
    experiment = _experiment(sets, "toxcast_sider")
    number = data.molecule_hash(data.molecules("sider", sets).graphs)
    scaffold = np.arange(MOLECULES) // 3
    for run in range(2):
        arrays, test = jax.tree.map(lambda a, run=run: np.asarray(a[run]), (experiment.data, experiment.test))
        rows = {part: set(arrays[part].tolist()) for part in ("seen", "labelled", "pretrain")}
        rows |= {
            name: set(items[items >= 0].tolist())
            for name, items in (("test", test), ("monitor", arrays["monitor"]), ("items", arrays["labelled_items"]))
        }
        assert rows["seen"] == rows["labelled"] == rows["items"]
        parts = [set(scaffold[list(rows[part])].tolist()) for part in ("labelled", "monitor", "test")]
        assert all(parts) and sum(map(len, parts)) == len(set.union(*parts))
        judged = number[list(rows["test"] | rows["monitor"])]
        assert not np.isin(number[list(rows["pretrain"])], judged).any() and rows["pretrain"]
        assert set(np.flatnonzero(~np.isin(number, judged)).tolist()) == rows["pretrain"]


def test_proteins_are_split_as_published(sets):
    proteins = data.hu_bio(sets)
    split = data.species_split(proteins.species)
    for choice in ("hard", "easy"):
        experiment = _experiment(sets, "hu_bio", test=choice)
        arrays, test = jax.tree.map(lambda a: np.asarray(a[0]), (experiment.data, experiment.test))
        rows = lambda items: sorted(set(items[items >= 0].ravel().tolist()))
        assert rows(test) == split[f"test_{choice}"].tolist()
        assert rows(arrays["pretrain"]) == split["pretrain"].tolist()
        assert set(rows(arrays["monitor"])) < set(split["finetune_validation"].tolist())
        finetune = np.concatenate([split["finetune_train"], split["finetune_validation"]])
        assert sorted(rows(arrays["labelled"]) + rows(arrays["monitor"])) == sorted(finetune.tolist())


@pytest.mark.parametrize("name", ["ppi_tissues", "toxcast_sider"])
def test_partial_access_by_examples_hides_labels_from_meta_learning_alone(folder, sets, name):
    experiment = _experiment(folder if name == "ppi_tissues" else sets, name, access=(0.25, 1.0))
    of = lambda part: [np.asarray(leaf) for leaf in jax.tree.leaves(experiment.data[part])]
    for part in ("pretrain", "labelled", "labelled_items", "monitor"):
        assert all((leaf[:2] == leaf[2:]).all() for leaf in of(part)), part
    assert all((np.asarray(leaf[:2]) == leaf[2:]).all() for leaf in jax.tree.leaves(experiment.test))
    seen = (lambda a: len(_rows(a))) if name == "ppi_tissues" else (lambda a: len(set(a.tolist())))
    (rows,) = of("seen")
    for run in range(2):
        assert abs(seen(rows[run]) - seen(rows[2 + run]) / 4) <= 0.5


@pytest.mark.parametrize("name", ["ppi_tissues", "toxcast_sider"])
def test_meta_learning_validates_on_other_examples_than_it_trains_on(folder, sets, name):
    experiment = _experiment(folder if name == "ppi_tissues" else sets, name, access=(0.5,))
    arrays = jax.tree.map(lambda a: a[0], experiment.data)
    seen, groups = set(np.asarray(arrays["seen"]).tolist()) if name != "ppi_tissues" else _rows(arrays["seen"]), []
    if name == "toxcast_sider":  # labels that say whose they are
        scaffold = np.arange(MOLECULES) // 3
        arrays["y_finetune"] = np.repeat(scaffold[:, None], 4, axis=1).astype(np.int8)
        seen = set(scaffold[list(seen)].tolist())
    found = lambda y: set(y[y >= 0].tolist()) if name == "toxcast_sider" else _rows(y)
    draw = jax.jit(experiment.draw)
    for number in range(12):
        batches = draw(arrays, jax.random.key(number))
        train, validation = found(np.asarray(batches.finetune[1][0])), found(np.asarray(batches.validation[1]))
        assert not train & validation and train | validation <= seen
        groups += [train, validation]
    assert set.union(*groups) == seen and len({tuple(sorted(group)) for group in groups}) > 2


@pytest.mark.parametrize("name", ["ppi_tissues", "toxcast_sider"])
def test_partial_access_by_tasks_judges_by_those_that_were_not_seen(folder, sets, name, key):
    experiment = _experiment(folder if name == "ppi_tissues" else sets, name, unseen_tasks=1)
    for run in range(2):
        arrays = jax.tree.map(lambda a, run=run: a[run], experiment.data)
        unseen = np.asarray(arrays["judged"])
        assert unseen.sum() == 1 and (np.asarray(arrays["learned_from"]) == ~unseen).all()
        batches = experiment.draw(arrays, key)
        cotrain = next(arm for arm in experiment.arms if arm.name == "cotrain").phases[0].draw(arrays, key)
        for _, y in (batches.finetune, batches.validation, cotrain.pretrain[1]):
            assert (np.asarray(y)[..., unseen] < 0).all() and (np.asarray(y)[..., ~unseen] >= 0).any()
        none = experiment.arms[0]
        areas = experiment.monitor(none.export(none.init(key, arrays, {}))["encoder"], arrays, key)
        assert np.isnan(areas[~unseen]).all() and (name == "toxcast_sider" or not np.isnan(areas[unseen]).any())


def test_shuffled_tasks_keep_their_counts_and_the_splits(folder):
    plain, shuffled = (_experiment(folder, shuffled=share) for share in (0.0, 0.5))
    one, other = (np.asarray(experiment.data["pretrain"]) for experiment in (plain, shuffled))
    changed = (one != other).any(1)
    assert changed.sum(1).max() <= 3 and changed.any(1).all()
    assert ((one >= 0) == (other >= 0)).all()
    assert (np.asarray(plain.test["y"]) == shuffled.test["y"]).all()


def test_the_null_control_s_tasks_are_all_alike(sets):
    y = np.asarray(_experiment(sets, "toxcast_sider", identical=True).data["y_pretrain"])
    plain = data.molecules("toxcast", sets).y
    assert (y == y[:, :, :1]).all() and (y[0, :, 0] == plain[:, (plain >= 0).sum(0).argmax()]).all()


def test_one_weight_a_family(folder):
    experiment = _experiment(folder, weights="families")
    meta = next(arm for arm in experiment.arms if arm.name == "meta")
    state = meta.init(jax.random.key(0), jax.tree.map(lambda a: a[0], experiment.data), {})
    moved = state._replace(phi=state.phi.at[1].set(1.0))
    assert state.phi.shape == (2,)
    weights = np.asarray(meta.export(moved)["weights"])
    np.testing.assert_allclose(weights[:3], weights[0])
    np.testing.assert_allclose(weights[3:], weights[0] * np.e, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"access": (0.5, 1.2)}, "access=.* must name shares above 0, at most 1"),
        ({"unseen_tasks": 3}, "unseen_tasks=3 must be below 3, the fine-tuning tasks"),
        ({"shuffled": 1.5}, r"shuffled=1\.5 must be at most 1"),
    ],
)
def test_impossible_settings_are_refused(folder, fields, message):
    with pytest.raises(ValueError, match=message):
        _experiment(folder, **fields)


@pytest.mark.slow
def test_seeds_one_after_the_other_are_the_seeds_side_by_side(folder, tmp_path):
    experiment = _experiment(folder)
    results = []
    for together in (True, False):
        config = configs.load("ppi_tissues").Config()
        with RunFolder.create(tmp_path / str(together), "ppi_tissues", config) as run_folder:
            results.append(run_experiment(experiment._replace(seeds_together=together), "x", 0, run_folder, quiet=True))
    for arm in results[0]["arms"]:
        np.testing.assert_allclose(*(result["arms"][arm]["mean"] for result in results), atol=2e-3)
