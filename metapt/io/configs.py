"""Finds and loads configs: Python files with a frozen dataclass `Config` and a function `experiment(config)`."""

import dataclasses
import difflib
import importlib.util
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from metapt.data.files import one_line
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
        raise UserError(
            f"no config {name!r}; {did_you_mean(name, known)}known: {', '.join(sorted(known)) or 'none'}, or a path to a .py file"
        )
    spec = importlib.util.spec_from_file_location(f"metapt_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]
    sys.modules[spec.name] = module  # pyright: ignore[reportOptionalMemberAccess]  (dataclasses look their module up)
    sys.path.insert(0, str(path.parent.absolute()))  # as for a script: a config may build on its neighbours
    try:
        spec.loader.exec_module(module)  # pyright: ignore[reportOptionalMemberAccess]
    except (Exception, SystemExit) as error:
        raise UserError(f"config {path} does not load: {type(error).__name__}: {one_line(error)}") from error
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
            if not isinstance(number, (int, float)) or isinstance(number, bool):
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
        raise UserError(
            f"config has no field {unknown[0]!r}; {did_you_mean(unknown[0], known)}its fields are {', '.join(known)}"
        )
    hints = typing.get_type_hints(module.Config)
    for name, value in fields.items():
        if not _fits(value, hints[name]):
            wanted = getattr(hints[name], "__name__", "") if typing.get_origin(hints[name]) is None else hints[name]
            raise UserError(f"config field {name}={value!r} must be of type {wanted}")
    try:
        return module.Config(**{name: _plain(value) for name, value in fields.items()})
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest of the known words, as a question; nothing if none is near."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}? " if close else ""


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of an annotated type; annotations beyond the simple ones are not judged."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(part, arguments[0]) for part in value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list) else value  # JSON knows no tuples
