"""Arguments, checked when something is built: one line with the name, the value, what is allowed and why."""

import math
import operator
from typing import Any

import numpy as np


def whole(name: str, value: Any, least: int = 1, why: str = "") -> int:
    """`value`, a whole number of at least `least`.

    Raises:
        ValueError: if it is not.

    Example:
        >>> whole("cg: max_steps", 0)
        Traceback (most recent call last):
        ValueError: cg: max_steps=0 must be at least 1
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a whole number, at least {least}{_reason(why)}")
    if number < least:
        raise ValueError(f"{name}={value} must be at least {least}{_reason(why)}")
    return number


def real(
    name: str,
    value: Any,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    why: str = "",
) -> float:
    """`value`, a finite number within the bounds.

    Raises:
        ValueError: if it is not.

    Example:
        >>> real("with_teacher: decay", 1.0, least=0, below=1)
        Traceback (most recent call last):
        ValueError: with_teacher: decay=1.0 must be at least 0 and below 1
    """
    bounds = {"at least": least, "above": above, "below": below}
    allowed = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}={value!r} must be a finite number {allowed}{_reason(why)}")
    if (
        (least is not None and number < least)
        or (above is not None and number <= above)
        or (below is not None and number >= below)
    ):
        raise ValueError(f"{name}={value} must be {allowed}{_reason(why)}")
    return number


def axes(name: str, value: Any, count: int, integer: bool = False) -> None:
    """Raises if `value` is no array with `count` axes (of whole numbers).

    Raises:
        ValueError: with what it is.

    Example:
        >>> axes("fold_split: patient", np.zeros((2, 3)), 1)
        Traceback (most recent call last):
        ValueError: fold_split: patient must be an array with 1 axis, found float64 [2, 3]
    """
    kind, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if kind is None or shape is None or len(shape) != count or (integer and not np.issubdtype(kind, np.integer)):
        found = type(value).__name__ if kind is None or shape is None else f"{kind} {list(shape)}"
        of = " of whole numbers" if integer else ""
        raise ValueError(f"{name} must be an array{of} with {count} {'axis' if count == 1 else 'axes'}, found {found}")


def _reason(why: str) -> str:
    return f" ({why})" if why else ""
