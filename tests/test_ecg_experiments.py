"""The experiments on electrocardiograms, small and on made-up records: arms, who sees what, the score."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapt import data, models
from metapt.cli import main
from metapt.io import configs

SIZES = {
    "seeds": 1,
    "records": 200,
    "sizes": (20, 40),
    "seen": (10, 20),
    "monitor": 30,
    "widths": (4,),
    "kernel": 3,
    "crop": 64,
    "batch": 8,
    "outer_steps": 4,
    "warm_up": 1,
    "pretrain_steps": 2,
    "finetune_steps": 1,
    "warp_width": 2,
    "warp_kernel": 3,
    "warp_layers": 2,
    "final_steps": 5,
}
ARMS = ["none", "simclr_no_warp", "simclr_random_warp", "simclr_tuned_warp", "search", "meta", "replay"]


@pytest.fixture(autouse=True)
def _float64():
    """Float32, as a user runs it (replaces the fixture of conftest.py)."""


def _experiment(**fields):
    module = configs.load("ecg_generated")
    return module.experiment(module.Config(**{**SIZES, **fields}))


@pytest.mark.slow
def test_every_arm_runs_and_is_reported(tmp_path):
    words = []
    for name, value in SIZES.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    assert main(["run", "ecg_generated", *words, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["arms"]) == ARMS
    figures = result["meta"]
    by_seen = [figures["by_seen"][seen][size]["replay"]["mean"] for seen in ("10", "20") for size in ("20", "40")]
    np.testing.assert_allclose(np.mean(by_seen), result["arms"]["replay"]["mean"], rtol=1e-6)
    spent = figures["gradient_evaluations"]
    afresh = 4 * (2 + 1 + 1)  # what the search ends with
    assert spent["replay"] == spent["simclr_no_warp"] == 4 * 2
    assert 0.5 * spent["meta"] < spent["search"] - afresh <= spent["meta"]
    assert np.shape(figures["search_found"]) == (2, 4) and set(figures["warp_samples"]) == {"all", *data.SUPERCLASSES}
    pictures = {"learning_curves", "hypergradient", "warp_by_superclass", "views", "warps", "sizes_10", "sizes_20"}
    assert {path.stem for path in (tmp_path / "run" / "plots").iterdir()} == pictures


def test_patients_of_the_test_and_of_the_curves_are_never_labelled():
    experiment = _experiment(seeds=2)
    ecg = data.generated_ecg(0, SIZES["records"])
    pool = np.flatnonzero(ecg.fold < 10)
    find = {record.tobytes(): row for row, record in enumerate(ecg.signals)}
    rows = lambda signals: {find[np.asarray(record).tobytes()] for record in signals}
    for run in range(4):  # two numbers of seen records, two seeds
        arrays, test = jax.tree.map(lambda a, run=run: np.asarray(a[run]), (experiment.data, experiment.test))
        labelled, watched = set(pool[arrays["labelled"]].tolist()), rows(arrays["monitor"]["signals"])
        assert len(labelled) == 40 and len(watched) == 30 and not labelled & watched
        assert rows(test["signals"]) == set(np.flatnonzero(ecg.fold == 10).tolist())
        np.testing.assert_array_equal(arrays["y"], ecg.y[pool])
    of_seeds = experiment.data["labelled"]
    assert (of_seeds[0] == of_seeds[2]).all() and not (of_seeds[0] == of_seeds[1]).all()


@pytest.mark.parametrize("seen", [7, 20])
def test_meta_learning_sees_two_halves_of_what_it_may_see(seen):
    experiment = _experiment(seen=(seen, 20), crop=1000, batch=10)
    arrays = jax.tree.map(lambda a: a[0], experiment.data)
    whole = np.asarray(arrays["signals"] * arrays["unit"] - arrays["mean"])
    record = lambda x: int(np.abs(whole - x).sum((1, 2)).argmin())
    allowed, sizes = set(np.asarray(arrays["labelled"])[:seen].tolist()), set()
    for number in range(3):
        batches = experiment.draw(arrays, jax.random.key(number))
        halves = [{record(x) for x in np.asarray(part[0]).reshape(-1, 1000, 12)} for part in batches[1:]]
        assert not halves[0] & halves[1] and halves[0] | halves[1] == allowed
        for x, y in (batches.validation, batches.pretrain):
            assert np.abs(whole[record(x.reshape(-1, 1000, 12)[0])] - x.reshape(-1, 1000, 12)[0]).max() < 1e-5
            np.testing.assert_array_equal(y.reshape(-1, 5)[0], arrays["y"][record(x.reshape(-1, 1000, 12)[0])])
        sizes.add(frozenset(halves[0]))
    assert len(sizes) == 3  # other halves every time


def test_crops_are_stretches_of_the_record():
    experiment = _experiment()
    arrays = jax.tree.map(lambda a: a[0], experiment.data)
    x, y = experiment.draw(arrays, jax.random.key(0)).pretrain
    whole = np.asarray(arrays["signals"] * arrays["unit"] - arrays["mean"])
    windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], 64, axis=1)  # lead I
    distance = np.abs(windows - np.asarray(x)[0, 0, :, 0]).max(-1)
    assert distance.min() < 1e-5
    row = np.unravel_index(distance.argmin(), distance.shape)[0]
    np.testing.assert_array_equal(y[0, 0], arrays["y"][row])


def test_the_score_is_that_of_plain_logistic_regression():
    """An untrained network's features, judged by scikit-learn on the same records."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    experiment = _experiment(sizes=(100,), seen=(20,), final_steps=1000, records=600, monitor=100)
    arrays, test = jax.tree.map(lambda a: a[0], (experiment.data, experiment.test))
    arm = experiment.arms[0]
    encoder = arm.export(arm.init(jax.random.key(0), arrays, {}))["encoder"]
    area = experiment.evaluate(encoder, arrays, test, jax.random.key(1))
    model = models.resnet1d(12, (4,), 1, 3)

    def features(signals):
        x = jnp.asarray(signals * arrays["unit"] - arrays["mean"])
        return np.asarray(model.apply(*encoder, x, jax.random.key(0), "running")[0])

    known, unknown = features(arrays["signals"][arrays["labelled"]]), features(test["signals"])
    mean, spread = known.mean(0), known.std(0)
    y, truth = np.asarray(arrays["y"][arrays["labelled"]]), np.asarray(test["y"])
    areas = []
    for task in range(5):  # loss: mean over records and tasks + 0.01 |w|^2
        fitted = LogisticRegression(C=1 / (0.02 * 5 * 100), max_iter=5000)
        fitted.fit((known - mean) / spread, y[:, task])
        areas.append(roc_auc_score(truth[:, task], fitted.decision_function((unknown - mean) / spread)))
    assert abs(float(area[0]) - np.mean(areas)) < 0.01


def test_bad_fields_are_refused():
    module = configs.load("ecg_generated")
    with pytest.raises(ValueError, match=r"seen=\(2000,\) must be at most 1000"):
        module.Config(seen=(2000,))
    with pytest.raises(ValueError, match=r"sizes=\(500,\) and monitor=300: there are 90 patients"):
        module.experiment(module.Config(records=100, sizes=(500,)))
