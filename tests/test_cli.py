"""The command line as a user meets it: run, resume, compare, list (mistakes are in test_bad_input.py)."""

import json
import re
from pathlib import Path

import pytest

from metapt.cli import main
from metapt.io.tables import print_result
from metapt.recipes import METHODS

pytestmark = pytest.mark.xdist_group("cli")  # they share one finished run

SMALL = [
    "--seeds",
    "2",
    "--real-tasks",
    "3",
    "--noise-tasks",
    "4",
    "--train-labels",
    "20",
    "--validation-labels",
    "20",
    "--hidden",
    "8",
    "--features",
    "4",
    "--outer-steps",
    "12",
    "--warm-up",
    "2",
    "--pretrain-steps",
    "2",
    "--finetune-steps",
    "2",
    "--batch",
    "8",
    "--neumann-terms",
    "1",
    "--final-steps",
    "5",
]


def _without_time(result):
    return {key: value for key, value in result.items() if key not in ("seconds", "versions")}


def _read(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(autouse=True)
def _float64():
    """The command line runs as a user's does, in float32 (replaces the fixture of conftest.py)."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["run", "digits_tasks", *SMALL, "--out", str(folder), "--quiet"]) == 0
    return folder


def test_the_run_folder_holds_what_is_documented(finished):
    result = _read(finished)
    names = [
        "name",
        "metric",
        "higher_is_better",
        "arms",
        "comparisons",
        "meta",
        "skipped_updates",
        "skipped_steps",
        "advice",
        "seconds",
        "versions",
    ]
    assert list(result) == names
    assert list(result["arms"]) == ["none", "equal", "random", "meta", "replay", "oracle"]
    for arm in result["arms"].values():
        assert list(arm) == ["per_seed", "mean", "stderr"] and len(arm["per_seed"]) == 2
        assert abs(sum(arm["per_seed"]) / 2 - arm["mean"]) < 1e-12
    for row in result["comparisons"]:
        assert list(row) == ["a", "b", "difference", "stderr", "p_value"] and row["b"] == "equal"
        assert abs(row["difference"] - (result["arms"][row["a"]]["mean"] - result["arms"]["equal"]["mean"])) < 1e-12
    assert {"gap_closed", "weight_auc"} <= set(result["meta"]) and result["skipped_updates"] == result[
        "skipped_steps"
    ] == 0
    assert {path.name for path in (finished / "plots").iterdir()} == {
        "weights.png",
        "learning_curves.png",
        "hypergradient.png",
    }
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["arm"] == "meta"] == list(range(12))
    # After a warm-up of 2 of 12 outer steps, the weights move in the first half of the others.
    solved = [row["step"] for row in rows if row["arm"] == "meta" and row["report.solves"] == [1.0, 1.0]]
    assert solved == list(range(2, 7))
    config = json.loads((finished / "config.json").read_text())
    assert (
        config["config"] == "digits_tasks"
        and config["fields"]["outer_steps"] == 12
        and (finished / "checkpoints").is_dir()
    )


def test_the_same_seed_gives_the_same_result(finished, tmp_path):
    assert main(["run", "digits_tasks", *SMALL, "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert _without_time(_read(tmp_path / "again")) == _without_time(_read(finished))


def test_the_last_line_is_the_folder_and_the_table_names_every_arm(finished, capsys):
    assert main(["resume", str(finished)]) == 0  # a finished run only shows its result
    out = capsys.readouterr().out
    assert out.strip().split("\n")[-1] == str(finished)
    assert all(
        arm in out for arm in ("none", "equal", "random", "meta", "replay", "oracle", "p (paired t)", "gap_closed")
    )


def test_compare_puts_runs_side_by_side(finished, capsys):
    assert main(["compare", str(finished), str(finished)]) == 0
    out = capsys.readouterr().out
    mean = _read(finished)["arms"]["oracle"]["mean"]
    assert f"{mean:.4f} ±" in out and "oracle" in out


def test_list_for_people_and_programs(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.split("\n")
    files = sorted(path.stem for path in (Path(__file__).parent.parent / "configs").glob("[!_]*.py"))
    names = [line.split()[0] for line in lines if re.match(r"  \w", line)]
    assert names == ["recipe", *(method.name for method in METHODS), "config", *files] and len(files) >= 16
    flat = " ".join(" ".join(line[22:].split()) for line in lines)
    assert all(method.citation in flat for method in METHODS)
    assert main(["list", "--json"]) == 0
    for row in json.loads(capsys.readouterr().out):
        assert list(row) == ["name", "kind", "summary", "citation", "slots"] and all(row.values())


def test_nothing_is_overwritten(finished, capsys):
    before = (finished / "result.json").read_bytes()
    assert main(["run", "digits_tasks", *SMALL, "--out", str(finished)]) == 2
    assert "is not empty" in capsys.readouterr().err and (finished / "result.json").read_bytes() == before


def test_help_lists_the_fields(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "digits_tasks", "--help"])
    assert stop.value.code == 0 and "--noise-tasks" in capsys.readouterr().out


def test_comparisons_by_level_are_printed_as_a_table(capsys):
    row = {"difference": 0.125, "stderr": 0.0625, "p_value": 0.03125}
    levels = {
        str(level): {"base": {"mean": level}, "other": {"mean": 0.5, "minus_base": row}} for level in (0.25, 0.75)
    }
    result = {"name": "n", "metric": "m", "higher_is_better": True, "arms": {}, "comparisons": []}
    print_result({**result, "meta": {"by_noise": levels, "by_one": {"0.25": levels["0.25"]}, "plain": {"a": 1.5}}})
    lines = capsys.readouterr().out.splitlines()
    heading = next(i for i, line in enumerate(lines) if "noise" in line)
    assert lines[heading].split() == ["noise", "arm", "mean", "minus", "base", "std.", "error", "p", "(paired", "t)"]
    assert [line.split() for line in lines[heading + 2 : heading + 7] if line.split()] == [
        ["0.25", "base", "0.2500"],
        ["other", "0.5000", "+0.1250", "0.0625", "0.0312"],
        ["0.75", "base", "0.7500"],
        ["other", "0.5000", "+0.1250", "0.0625", "0.0312"],
    ]
    assert lines[-2:] == ["by_one: in result.json", "plain: a 1.5"]
