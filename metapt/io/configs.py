"""Finds and loads configs: Python files with a frozen dataclass `Config` and a function `experiment(config)`."""

import dataclasses
import difflib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from metapt.io.errors import UserError

_FOLDERS = (
    Path("configs"),
    Path(__file__).parents[2] / "configs",  # a checkout
    Path(sys.prefix) / "share" / "metapt" / "configs",  # an installed wheel
)


def available() -> dict[str, Path]:
    """Configs by name."""
    paths = (path for folder in reversed(_FOLDERS) if folder.is_dir() for path in sorted(folder.glob("[a-z]*.py")))
    return {path.stem: path for path in paths}


def load(name: str) -> ModuleType:
    """The module of a config, by name or path."""
    known = available()
    path = known.get(name) or Path(name)
    if path.suffix != ".py" or not path.is_file():
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(
            f"no config {name!r}; {hint}known: {', '.join(sorted(known)) or 'none'}, or a path to a .py file"
        )
    spec = importlib.util.spec_from_file_location(f"metapt_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]
    sys.modules[spec.name] = module  # pyright: ignore[reportOptionalMemberAccess]  (dataclasses look their module up)
    sys.path.insert(0, str(path.parent.absolute()))  # as for a script: a config may build on its neighbours
    try:
        spec.loader.exec_module(module)  # pyright: ignore[reportOptionalMemberAccess]
    except Exception as error:
        raise UserError(f"config {path} does not load: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    missing = [wanted for wanted in ("Config", "METHOD", "experiment") if not hasattr(module, wanted)]
    if missing:
        raise UserError(
            f"config {path} lacks {', '.join(missing)} (a dataclass, a recipe's METHOD, a function of the config)"
        )
    return module


def check_numbers(config: Any, **least: float) -> None:
    """For a config's `__post_init__`: its numbers are finite and at least `least[name]` (by default: integers 1, others above 0).

    Raises:
        ValueError: with the name, the value and what is allowed.
    """
    for name, value in vars(config).items():
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(number, (bool, str)):
                continue
            if name in least or isinstance(number, int):
                if not least.get(name, 1) <= number < float("inf"):
                    raise ValueError(f"{name}={number} must be at least {least.get(name, 1)}")
            elif not 0 < number < float("inf"):
                raise ValueError(f"{name}={number} must be a finite number above 0")


def build(module: ModuleType, fields: dict[str, Any]) -> Any:
    """`Config(**fields)`, with a `UserError` for what it refuses."""
    known = [field.name for field in dataclasses.fields(module.Config)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise UserError(f"config has no field {unknown[0]!r}; its fields are {', '.join(known)}")
    try:
        return module.Config(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
