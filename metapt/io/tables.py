"""Results as tables, for the screen."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def print_result(result: Mapping[str, Any]) -> None:
    """One row an arm: mean, standard error, paired difference to the baseline, p-value."""
    against = {row["a"]: row for row in result["comparisons"]}
    baseline = result["comparisons"][0]["b"] if result["comparisons"] else None
    direction = "higher" if result["higher_is_better"] else "lower"
    table = Table(
        title=f"{result['name']}: {result['metric']} ({direction} is better)", title_justify="left", box=SIMPLE_HEAD
    )
    for heading in ("arm", "mean", "std. error", f"minus {baseline}", "std. error", "p (paired t)"):
        first = heading == "arm"
        table.add_column(heading, justify="left" if first else "right", no_wrap=first, overflow="fold")
    for name, arm in result["arms"].items():
        row = against.get(name)
        cells = (_signed(row["difference"]), _number(row["stderr"]), _p_value(row["p_value"])) if row else ("", "", "")
        table.add_row(name, _number(arm["mean"]), _number(arm["stderr"]), *cells)
    console = Console()
    console.print(table)
    for name, value in result["meta"].items():
        console.print(f"{name}: {'in result.json' if _depth(value) > 2 else _figure(value)}", highlight=False)
    for line in result.get("advice", []):
        console.print(line, highlight=False, soft_wrap=True)


def print_comparison(results: Mapping[str, Mapping[str, Any]]) -> None:
    """One row an arm, one column a run: mean and standard error."""
    metrics = sorted({result["metric"] for result in results.values()})
    table = Table(title=", ".join(metrics), title_justify="left")
    table.add_column("arm")
    for name in results:
        table.add_column(name, justify="right", overflow="fold")
    for arm in dict.fromkeys(arm for result in results.values() for arm in result["arms"]):
        cells = (result["arms"].get(arm) for result in results.values())
        table.add_row(arm, *(f"{_number(c['mean'])} ± {_number(c['stderr'])}" if c else "-" for c in cells))
    Console().print(table)


def _depth(value: Any) -> int:
    """How many mappings are one in the other."""
    return 1 + max(map(_depth, value.values()), default=0) if isinstance(value, Mapping) else 0


def _figure(value: Any) -> str:
    """Four digits, in lists and mappings too."""
    if isinstance(value, Mapping):
        inner = (
            (name, f"({_figure(part)})" if isinstance(part, Mapping) else _figure(part)) for name, part in value.items()
        )
        return ", ".join(f"{name} {part}" for name, part in inner)
    if isinstance(value, list):
        return f"[{', '.join(map(_figure, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _p_value(value: float | None) -> str:
    return "-" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"
