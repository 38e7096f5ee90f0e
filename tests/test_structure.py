"""The architecture, kept by reading the source: who imports whom, what is only allowed where."""

import ast
import re
from pathlib import Path

import pytest

import metapt
from metapt.recipes import METHODS

ROOT = Path(metapt.__file__).parents[1]
PACKAGE = ROOT / "metapt"
LAYERS = [
    {"types", "checks", "exactness"},
    {"data", "models", "objectives", "meta", "solvers", "optimizers"},
    {"stages"},
    {"hypergrad"},
    {"updates"},
    {"algorithm"},
    {"recipes", "doctor"},
    {"io", "cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def _part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_what_stands_above_it(path):
    for module in _imports(path):
        parts = module.split(".")
        if parts[0] == "metapt" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[_part(path)], f"{path.name} imports {module}"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("jaxopt", {"solvers/jaxopt_backend.py"}),
        (
            "flax",
            {f"models/{name}.py" for name in ("adapters", "convnet", "encoders", "graphs", "resnet1d")},
        ),
        ("orbax", {"io/checkpoint.py"}),
        ("wfdb", {"data/ptbxl.py"}),
    ],
)
def test_a_dependency_stays_where_it_belongs(package, allowed):
    users = {
        str(path.relative_to(PACKAGE)) for path in FILES if any(m.split(".")[0] == package for m in _imports(path))
    }
    assert users == allowed


def test_only_the_rules_stop_gradients():
    users = {_part(path) for path in FILES if "stop_gradient" in path.read_text()}
    assert users == {"hypergrad"}


def test_recipes_only_compose():
    for path in (PACKAGE / "recipes").glob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        loops = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.For, ast.While))]
        assert (
            not names & {"grad", "value_and_grad", "vjp", "jvp", "scan", "fori_loop", "while_loop", "mean", "sum"}
            and not loops
        )


def test_recipes_are_listed_and_cited():
    readme = (ROOT / "README.md").read_text()
    files = {path.stem for path in (PACKAGE / "recipes").glob("*.py")} - {"__init__", "method"}
    assert files == {method.name for method in METHODS}
    for method in METHODS:
        assert re.search(r"(19|20)\d\d", method.citation) and f"`{method.name}`" in readme


def test_files_and_functions_can_be_read_in_one_go():
    for path in FILES:
        source = path.read_text()
        assert source.count("\n") <= 300, f"{path} is long"
        assert ast.get_docstring(ast.parse(source)), f"{path} has no docstring"
    assert (PACKAGE / "algorithm.py").read_text().count("\n") < 180


def test_everything_exported_exists_and_is_documented():
    for name in metapt.__all__:
        assert getattr(metapt, name).__doc__, name
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    for folder in folders - {"io"}:
        module = __import__(f"metapt.{folder}", fromlist=["__all__"])
        for name in set(module.__all__) - {"Predict", "View", "Suggest"}:  # type aliases
            assert getattr(module, name).__doc__, f"{folder}.{name}"
