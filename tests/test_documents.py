"""What the reader is told to run, runs."""

import json
import re
import runpy
from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

from metapt.cli import main

ROOT = Path(__file__).parents[1]


def test_the_readme_example_gives_a_useful_hypergradient(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)  # prints the hypergradient
    gradient = names["jax"].grad(names["meta_loss"])(names["jnp"].full(5, -3.0))
    assert (
        gradient[4] < -0.1 and abs(gradient[2]) < 0.01
    )  # descent penalises the weight that fine-tuning has no use for
    assert len([line for line in example.splitlines() if line.strip()]) <= 25


@pytest.mark.slow
def test_the_skeleton_of_a_method_is_right_and_its_comparison_runs(tmp_path, monkeypatch):
    """The three files of docs/adding_a_method.md: the derivative is exact, and the command line takes the config."""
    page = (ROOT / "docs" / "adding_a_method.md").read_text()
    files = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL))
    assert list(files) == ["label_smoothing.py", "check.py", "digits_smoothing.py"]
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    checked = runpy.run_path(str(tmp_path / "check.py"))["check"]
    exact, *others = checked.rows
    assert exact.advice.startswith("exact") and exact.relative_error < 1e-7 and len(others) > 5
    words = ["--seeds", "2", "--outer-steps", "4", "--steps", "10", "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["run", str(tmp_path / "digits_smoothing.py"), *words]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["arms"]) == ["none", "published", "learned"]
    assert all(0 < strength < 1 and strength != 0.1 for strength in result["meta"]["strength"])


@pytest.mark.parametrize(
    "name",
    [
        "quickstart",
        "two_derivatives",
        pytest.param("rotation", marks=pytest.mark.slow),
        pytest.param("label_noise", marks=pytest.mark.slow),
        pytest.param("ecg_augmentation", marks=pytest.mark.slow),
        pytest.param("task_weights", marks=pytest.mark.slow),
    ],
)
def test_a_notebook_runs_and_matches_its_script(name, request, monkeypatch):
    if name == "task_weights":
        monkeypatch.setenv("METAPT_DATA", str(request.getfixturevalue("shared_data")))
    script = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in script.cells]
    assert all(not cell.get("outputs") for cell in notebook.cells)
    executed = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    images = [out for cell in executed.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(images) == 1
