"""What the README claims of the demo, on seeds of its own, and the null control."""

import json

import pytest

from metapt.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _float64():
    """Float32, as a user runs it (replaces the fixture of conftest.py)."""


def _run(tmp_path, *fields):
    assert main(["run", "digits_tasks", "--seed", "100", "--out", str(tmp_path / "run"), "--quiet", *fields]) == 0
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
