"""What the reader is told to run, runs."""

import re
from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

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


@pytest.mark.parametrize(
    "name",
    [
        "quickstart",
        "two_derivatives",
        pytest.param("rotation", marks=pytest.mark.slow),
        pytest.param("label_noise", marks=pytest.mark.slow),
        pytest.param("ecg_augmentation", marks=pytest.mark.slow),
    ],
)
def test_a_notebook_runs_and_matches_its_script(name):
    script = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in script.cells]
    assert all(not cell.get("outputs") for cell in notebook.cells)
    executed = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    images = [out for cell in executed.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(images) == 1
