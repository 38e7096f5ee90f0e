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
def test_examples_with_wrong_labels_lose_their_weight_and_the_others_are_worth_more(tmp_path):
    tiny = "--seeds 5 --noise 0.5 --train 200 --steps 50 --outer-steps 40 --meta-lr 0.15 --seed 77"
    result = _run(tmp_path, "data_cleaning", tiny)
    gain = {name: row["minus_equal"] for name, row in result["meta"]["by_noise"]["0.5"].items() if name != "equal"}
    assert gain["learned"]["difference"] > 0.05 and gain["learned"]["p_value"] < 0.01
    assert gain["shuffled"]["difference"] < 0.02 and result["meta"]["weight_auc"]["0.5"] > 0.8
    assert result["meta"]["gradient_evaluations"]["learned"] == 40 * (50 + 1 + 3 * 50)


@pytest.mark.slow
def test_a_penalty_for_every_parameter_is_worth_more_than_one_for_all(tmp_path):
    result = _run(tmp_path, "weight_decay", "--seeds 5 --wrong 0 1 --outer-steps 150 --monitor 50 --seed 77")
    by = result["meta"]["by_wrong"]
    difference = lambda level, name: by[level][name]["minus_none"]["difference"]
    assert difference("0.0", "decay") - difference("0.0", "shared") > 0.03
    assert difference("0.0", "shuffled") < 0.02 and difference("1.0", "decay") < 0.02
    loss = result["meta"]["validation_loss"]["0.0"]
    assert all(many < none for many, none in zip(loss["decay"], loss["decay_0"], strict=True))


@pytest.mark.slow
def test_ten_learned_images_are_worth_more_than_the_means_of_the_classes(tmp_path):
    by = _run(tmp_path, "distillation", "--seeds 5 --monitor 50 --seed 77")["meta"]["by_wrong"]
    mean = {name: row["mean"] for name, row in by["0.0"].items()}
    assert mean["learned"] > mean["means"] + 0.02 and mean["best_real"] < mean["means"] - 0.05
    # Five terms are worth much at the same rate, and nothing at the same length of the gradient.
    assert mean["learned"] > mean["learned_0"] + 0.025 and abs(mean["learned"] - mean["learned_0_faster"]) < 0.005
    assert by["1.0"]["learned"]["mean"] < 0.2


@pytest.mark.slow
def test_features_learned_through_the_training_of_heads_are_worth_more(tmp_path, shared_data):
    tiny = "--seeds 5 --outer-steps 60 --tasks 4 --monitor-tasks 2 --test-tasks 100 --seed 77 --data"
    result = _run(tmp_path, "omniglot_heads", f"{tiny} {shared_data}")
    mean = {name: arm["mean"] for name, arm in result["arms"].items()}
    assert mean["learned"] > mean["constant"] + 0.01 and mean["learned"] > mean["no_split"] + 0.05
    assert mean["learned"] > mean["untrained"] + 0.08 > mean["meaningless"] + 0.05


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


@pytest.mark.slow
def test_held_near_a_start_that_is_right_fine_tuning_gains_and_forgets_less_and_near_another_it_gains_nothing(tmp_path):
    tiny = "--seeds 4 --turn 0 --steps 800 --finetune-steps 50 --outer-steps 8 --pretrain-steps 200 --seed 77"
    result = _run(tmp_path, "near_start", tiny)
    learned = ["decay_learned", "l2_sp_learned", "fisher_learned", "group_lasso_learned", "elsewhere_learned"]
    assert list(result["arms"]) == ["plain", "decay", "l2_sp", *learned] and not result["skipped_updates"]
    mean = {name: arm["mean"] for name, arm in result["arms"].items()}
    kept = {name: by_angle["0.0"] for name, by_angle in result["meta"]["old_head"].items()}
    for name in ("l2_sp", "l2_sp_learned", "fisher_learned", "group_lasso_learned"):
        assert mean[name] > mean["plain"] + 0.013 and kept[name] > kept["plain"] + 0.025, name
    assert mean["elsewhere_learned"] < mean["plain"] - 0.01 and mean["decay_learned"] < mean["l2_sp_learned"] - 0.025
    assert result["meta"]["unmoved_units"]["group_lasso_learned"]["0.0"] > 0.5
