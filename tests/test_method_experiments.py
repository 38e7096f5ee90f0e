"""The comparisons of published methods on real data, small, on seeds of their own: half of what was measured is asked for."""

import json

import pytest

from metapt.cli import main


@pytest.fixture(autouse=True)
def _float64():
    """Float32, as a user runs it (replaces the fixture of conftest.py)."""


def _run(tmp_path, config, words):
    assert main(["run", config, *words.split(), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    return json.loads((tmp_path / "run" / "result.json").read_text())


def test_where_classes_shift_much_the_estimated_weights_are_near_the_true_ones_and_help(tmp_path):
    tiny = "--seeds 8 --shift 10 0 --train-labels 50 --held-out 500 --target 300 --steps 60 --seed 77"
    result = _run(tmp_path, "label_shift", tiny)
    assert list(result["arms"]) == ["equal", "bbse", "bbse_soft", "detected", "oracle"]
    figures = result["meta"]
    errors = figures["squared_error"]["10.0"]
    assert errors["oracle"] == 0.0 and errors["equal"] > 10 * errors["bbse"] > 0
    assert figures["by_shift"]["10.0"]["bbse"]["minus_equal"]["difference"] > 0.03
    assert figures["detected"]["10.0"] == 1.0 and figures["detected"]["0.0"] <= 0.25


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--shift", "-1"], "shift=-1.0 must be at least 0"), (["--held-out", "1690"], "no images left")],
)
def test_what_label_shift_cannot_do_is_one_line(words, message, tmp_path, capsys):
    assert main(["run", "label_shift", *words, "--seeds", "1", "--out", str(tmp_path / "run"), "--quiet"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_balanced_weights_serve_the_small_task_too(tmp_path):
    result = _run(tmp_path, "task_balance", "--seeds 2 --steps 150 --widths 32 32 --outputs 5 --lr 0.003 --seed 77")
    assert list(result["arms"]) == ["equal", "gradnorm", "static", "oracle"] and not result["skipped_updates"]
    small, large = result["meta"]["weights"]["gradnorm"]
    assert small > 1.2 > 0.8 > large and small + large == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--validation-labels", "50"], "validation_labels=50 must be below train_labels=50"),
        (["--pool", "1500"], "pool=1500 must be at most 947"),
    ],
)
def test_what_near_start_cannot_do_is_one_line(words, message, tmp_path, capsys):
    assert main(["run", "near_start", *words, "--seeds", "1", "--out", str(tmp_path / "run"), "--quiet"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_views_teach_without_labels_if_pairs_are_pairs_and_a_target_taught_back_collapses(tmp_path):
    result = _run(tmp_path, "digits_views", "--seeds 5 --seed 77 --labels 2 --probe-steps 100")
    mean = {name: arm["mean"] for name, arm in result["arms"].items()}
    assert list(mean)[:4] == ["none", "simclr", "simclr_shuffled", "simclr_identical"]
    assert mean["simclr"] - max(mean["none"], mean["simclr_shuffled"], mean["simclr_identical"]) > 0.09
    assert mean["byol"] - mean["byol_no_stop"] > 0.08
    spread = result["meta"]["spread"]
    assert spread["byol"] > 0.5 and spread["byol_no_stop"] < 0.15
