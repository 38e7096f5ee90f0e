"""The experiments on graphs, small and on made-up data: arms, who sees what, seeds side by side or one after the other."""

import json

import numpy as np
import pytest

from metapt.cli import main
from metapt.io import configs
from metapt.io.folder import RunFolder
from metapt.io.runner import run_experiment

GENES, TISSUES = 60, 4
SIZES = {
    "seeds": 2,
    "width": 4,
    "outer_steps": 4,
    "warm_up": 1,
    "pretrain_steps": 2,
    "neumann_terms": 1,
    "final_steps": 3,
    "pretrain_tissues": 2,
    "train_share": 0.2,
    "validation_share": 0.2,
    "monitor_share": 0.2,
}


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


def _experiment(folder, **fields):
    module = configs.load("ppi_tissues")
    return module.experiment(module.Config(data=str(folder), **{**SIZES, **fields}))


@pytest.mark.slow
def test_every_arm_runs_and_is_reported(folder, tmp_path):
    words = [word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["run", "ppi_tissues", "--data", str(folder), *words, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["arms"]) == ["none", "equal", "cotrain", "cotrain_pcgrad", "random", "meta", "replay"]
    weights = result["meta"]["mean_weight"]
    assert set(weights) == {"first", "second"} and abs(sum(weights.values()) - 2.0) < 1e-5  # softmax: their mean is 1
    assert result["meta"]["gradient_evaluations"]["cotrain"] == 2 * result["meta"]["gradient_evaluations"]["equal"]
    assert {path.name for path in (tmp_path / "run" / "plots").iterdir()} == {
        "weights.png",
        "learning_curves.png",
        "hypergradient.png",
    }


def test_genes_and_tissues_of_the_test_are_never_seen(folder):
    experiment = _experiment(folder)
    for run in range(2):
        rows = lambda y, run=run: set(np.flatnonzero((np.asarray(y[run]) >= 0).any(1)))
        data, test = experiment.data, experiment.test
        tested, monitored = rows(test["y"]), rows(data["monitor"]["y"])
        assert rows(data["train"]) | rows(data["validation"]) == rows(data["labelled"])
        assert not rows(data["train"]) & rows(data["validation"])
        assert not (tested | monitored) & (rows(data["pretrain"]) | rows(data["labelled"])) and not tested & monitored
        tissues = [set(np.asarray(part["tissues"][run]).tolist()) for part in (data, test)]
        assert not tissues[0] & tissues[1] and tissues[0] | tissues[1] == set(range(TISSUES))


def test_shuffled_tasks_keep_their_counts(folder):
    plain, shuffled = (np.asarray(_experiment(folder, shuffled=share).data["pretrain"]) for share in (0.0, 0.5))
    changed = (plain != shuffled).any(1)
    assert changed.sum(1).max() <= 3 and changed.any(1).all()
    assert ((plain >= 0) == (shuffled >= 0)).all()


@pytest.mark.slow
def test_seeds_one_after_the_other_are_the_seeds_side_by_side(folder, tmp_path):
    experiment = _experiment(folder)
    results = []
    for together in (True, False):
        run_folder = RunFolder.create(tmp_path / str(together), "ppi_tissues", configs.load("ppi_tissues").Config())
        results.append(run_experiment(experiment._replace(seeds_together=together), "x", 0, run_folder, quiet=True))
    for arm in results[0]["arms"]:
        np.testing.assert_allclose(*(result["arms"][arm]["mean"] for result in results), atol=2e-3)
