"""What the README and docs claim of the configs, on seeds of their own, and null controls."""

import json

import pytest

from metapt.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _float64():
    """Float32, as a user runs it (replaces the fixture of conftest.py)."""


def _run(tmp_path, *fields, config="digits_tasks"):
    assert main(["run", config, "--seed", "100", "--out", str(tmp_path / "run"), "--quiet", *fields]) == 0
    return json.loads((tmp_path / "run" / "result.json").read_text())


def test_learned_weights_find_the_real_tasks_and_close_the_gap(tmp_path):
    result = _run(tmp_path)
    against = {row["a"]: row for row in result["comparisons"]}
    assert result["meta"]["weight_auc"] >= 0.97 and result["meta"]["gap_closed"] >= 0.5
    assert against["meta"]["difference"] > 0 and against["meta"]["p_value"] < 0.05
    assert against["replay"]["difference"] > 0 and against["oracle"]["difference"] > 0.01
    assert result["skipped_updates"] == 0


def test_null_control_where_all_tasks_are_real_nothing_is_lost(tmp_path):
    result = _run(tmp_path, "--noise-tasks", "0", "--real-tasks", "420")
    meta = next(row for row in result["comparisons"] if row["a"] == "meta")
    assert meta["difference"] > -0.005  # a quarter of what learning gains where there is something to learn


def test_the_angle_is_found_from_every_start_and_stays_where_nothing_is_turned(tmp_path):
    found = _run(tmp_path / "turned", "--seeds", "4", config="digits_rotation")
    assert found["meta"]["mean_angle_error_degrees"] < 4.5  # twice what was measured; the paper reports 7.2
    against = {row["a"]: row for row in found["comparisons"]}
    assert against["meta"]["difference"] > 0.02 and found["skipped_updates"] == 0
    straight = _run(tmp_path / "straight", "--seeds", "2", "--target", "0", "--spread", "0", config="digits_rotation")
    assert max(straight["meta"]["angle_error_degrees"]) < 15.0
    meta = next(row for row in straight["comparisons"] if row["a"] == "meta")
    assert meta["difference"] > -0.02


def test_weights_tell_wrong_labels_at_every_level_of_noise(tmp_path):
    result = _run(tmp_path, "--seeds", "1", config="digits_label_noise")
    assert len(result["meta"]["weight_auc"]) == 3 and min(result["meta"]["weight_auc"]) > 0.985
    assert min(result["meta"]["weight_ratio"]) > 40
