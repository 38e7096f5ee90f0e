"""The experiments on images, small: arms, budgets, who sees which data, partial access."""

import json

import jax
import numpy as np
import pytest

from metapt.cli import main
from metapt.io import configs

SIZES = {
    "seeds": 2,
    "train_labels": 20,
    "validation_labels": 30,
    "hidden": 8,
    "features": 4,
    "outer_steps": 8,
    "warm_up": 2,
    "pretrain_steps": 2,
    "batch": 8,
    "neumann_terms": 1,
    "final_steps": 2,
    "pool": 50,
    "monitor": 10,
}
SMALL = [word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(autouse=True)
def _float64():
    """Float32, as a user runs it (replaces the fixture of conftest.py)."""


def _run(tmp_path, config, *fields):
    assert main(["run", config, *SMALL, *fields, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    return json.loads((tmp_path / "run" / "result.json").read_text())


@pytest.mark.slow
def test_every_way_to_the_angle_stays_within_the_budget_of_the_hypergradient(tmp_path):
    result = _run(tmp_path, "digits_rotation", "--variants")
    plain = ["none", "unrotated", "start", "meta", "replay", "oracle", "unrotated_longer"]
    others = ["one_step", "truncated", "exact", "differences", "random_search", "tpe"]
    assert list(result["arms"]) == plain + others
    spent = result["meta"]["gradient_evaluations"]
    assert spent["none"] == 0 and spent["replay"] == spent["unrotated"] == 8 * 2
    assert spent["meta"] == 2 * 4 + 6 * (4 + 3 + 2 * 12 + 2)
    last = {"exact": 8 * 4, "random_search": 8 * 4, "tpe": 8 * 4}  # the pre-training that they end with
    for name in ("unrotated_longer", "one_step", "truncated", "differences", "random_search", "tpe"):
        assert 0.8 * spent["meta"] < spent[name] - last.get(name, 0) <= spent["meta"], name
    assert len(result["meta"]["angle_error_degrees"]) == 2 and set(
        result["meta"]["mean_angle_error_degrees_by_arm"]
    ) == {*plain, *others}


@pytest.mark.slow
def test_label_noise_reports_one_figure_a_seed_and_level(tmp_path):
    result = _run(tmp_path, "digits_label_noise", "--noise", "0.3", "0")
    assert list(result["arms"]) == ["none", "equal", "meta", "replay", "oracle"]
    meta = result["meta"]
    assert meta["noise_level"] == [0.3, 0.3, 0.0, 0.0]
    for name in ("weight_ratio", "weight_auc"):
        assert [value is None for value in meta[name]] == [False, False, True, True], name
    assert all(len(arm["per_seed"]) == 4 for arm in result["arms"].values())
    equal = result["arms"]["equal"]["per_seed"]
    np.testing.assert_allclose(meta["by_noise_level"]["0.0"]["equal"], np.mean(equal[2:]), rtol=1e-12)
    # Without noise, the oracle's weights are equal weights: the same bits.
    np.testing.assert_array_equal(result["arms"]["oracle"]["per_seed"][2:], equal[2:])


def _data(name, **fields):
    module = configs.load(name)
    known = module.Config.__dataclass_fields__
    made = module.experiment(module.Config(**{key: value for key, value in SIZES.items() if key in known} | fields))
    return made.data, made.test


def test_meta_learning_sees_its_share_of_the_labels_and_never_the_rest():
    whole, _ = _data("digits_label_noise", noise=(0.5,))
    assert whole["train"].y.shape == (2, 20) and whole["validation"].y.shape == (2, 30)
    pixels = lambda part, run: {row.tobytes() for row in np.asarray(part[0][run])}
    for run in range(2):
        labelled = pixels(whole["labelled"], run)
        assert pixels(whole["train"], run) | pixels(whole["validation"], run) == labelled
        assert not pixels(whole["train"], run) & pixels(whole["validation"], run)
        assert not (pixels(whole["pool"], run) | pixels(whole["monitor"], run)) & labelled
        right = np.asarray(whole["pool"][2][run])
        assert 0.3 < right.mean() < 0.7
    few, test = _data("digits_label_noise", noise=(0.5,), access_classes=5)
    assert (
        few["labelled"].y.shape == (2, 50) and few["train"].y.shape == (2, 10) and few["validation"].y.shape == (2, 15)
    )
    assert int(few["train"].y.max()) < 5 and int(few["validation"].y.max()) < 5 <= int(test.y.max())
    half, _ = _data("digits_label_noise", noise=(0.5,), access=0.5)
    assert half["train"].y.shape == (2, 10) and half["validation"].y.shape == (2, 15)
    for share in (1.0, 0.5):
        tasks, _ = _data("digits_tasks", access=share)
        assert tasks["train"].y.shape == (2, share * 20) and tasks["validation"].y.shape == (2, share * 30)
        assert tasks["labelled"].y.shape == (2, 50)
        for run in range(2):
            seen = pixels(tasks["train"], run) | pixels(tasks["validation"], run)
            assert seen <= pixels(tasks["labelled"], run) and (seen == pixels(tasks["labelled"], run)) == (share == 1)


def test_fine_tuning_images_are_turned_and_pretraining_images_are_not():
    """A quarter turn exchanges the spread over rows and over columns of upright digits."""
    arrays, test = _data("digits_rotation", std=0.0, pool=300, validation_labels=200)
    taller = lambda x: float(np.mean(np.var(np.asarray(x).sum(-1), axis=-1) - np.var(np.asarray(x).sum(-2), axis=-1)))
    assert (
        taller(arrays["pool"].x) * taller(arrays["validation"].x) < 0 < taller(arrays["validation"].x) * taller(test.x)
    )
    assert np.asarray(arrays["start"]).tolist() == [45.0, 135.0]


def test_the_labelled_images_change_their_kind_from_one_outer_step_to_the_next_where_they_should():
    def drawn(step, **fields):
        module = configs.load("digits_rotation")
        made = module.experiment(module.Config(**{**SIZES, **fields}))
        batches = made.draw(jax.tree.map(lambda a: a[0], made.data), jax.random.key(step))
        train, validation = batches.finetune, batches.validation
        assert train.y.shape[1:] == (20,) and validation.y.shape == (30,)
        assert (train.x == train.x[0]).all()
        kinds = tuple({row.tobytes() for row in np.asarray(x)} for x in (train.x[0], validation.x))
        assert not kinds[0] & kinds[1]
        return kinds

    (first, first_rest), (second, second_rest) = drawn(0), drawn(1)
    assert first != second and first | first_rest == second | second_rest
    assert drawn(0, changing=False) == drawn(1, changing=False)


def test_mnist_configs_read_what_they_are_given(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(700, dtype=np.uint8) % 10
    x = rng.integers(0, 256, (700, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:50], y_test=y[:50])
    arrays, test = _data("mnist_label_noise", data=str(tmp_path), noise=(0.5,))
    assert arrays["pool"][0].shape == (2, 50, 8) and test.x.shape == (2, 50, 8)
    # The test images are the first of the training images here, and of those the monitored ones are some.
    everything = np.concatenate([arrays[name].x[0] for name in ("labelled", "monitor")] + [arrays["pool"][0][0]])
    nearest = np.abs(everything[:, None] - np.asarray(test.x[0])[None]).max(-1).min(1)
    assert 0 < (nearest < 1e-3).sum() < len(everything) and np.median(nearest) > 0.1
