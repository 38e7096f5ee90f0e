"""Results as tables, for the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_list(rows: Sequence[Mapping[str, Any]]) -> None:
    """Recipes with their sources, then configs with the recipe that each tries."""
    for kind, about in (("recipe", "what it learns"), ("config", "what `metapt run` of it asks")):
        table = Table(box=SIMPLE_HEAD)
        table.add_column(kind, no_wrap=True)
        table.add_column(about)
        for row in rows:
            if row["kind"] == kind:
                source = row["citation"] if kind == "recipe" else f"by {row['recipe']}"
                table.add_row(row["name"], f"{escape(row['summary'])}\n[dim]{escape(source)}[/dim]")
        Console().print(table, highlight=False)


def print_result(result: Mapping[str, Any]) -> None:
    """One row an arm: mean, standard error, paired difference to the baseline, p-value."""
    against = {row["a"]: row for row in result["comparisons"]}
    baseline = result["comparisons"][0]["b"] if result["comparisons"] else None
    direction = "higher" if result["higher_is_better"] else "lower"
    title = f"{result['name']}: {result['metric']} ({direction} is better)"
    table = _table(title, "arm", "mean", "std. error", *_against(f"minus {baseline}"))
    for name, arm in result["arms"].items():
        table.add_row(name, _number(arm["mean"]), _number(arm["stderr"]), *_difference(against.get(name)))
    console = Console()
    console.print(table)
    for name, value in result["meta"].items():
        if _is_by_level(value):
            console.print(_by_level(name, value))
        else:
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


def _is_by_level(value: Any) -> bool:
    """A mapping from several levels to one from arms to their means, as the configs' `by_level` makes it."""
    is_arm = lambda part: isinstance(part, Mapping) and "mean" in part
    is_level = lambda part: isinstance(part, Mapping) and part and all(map(is_arm, part.values()))
    return isinstance(value, Mapping) and len(value) > 1 and all(map(is_level, value.values()))


def _by_level(name: str, levels: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row a level and arm: mean, and what it is above the reference arm, paired."""
    against = next((key for level in levels.values() for arm in level.values() for key in arm if key != "mean"), "")
    table = _table("", name.removeprefix("by_"), "arm", "mean", *_against(against.replace("_", " ", 1)))
    for level, arms in levels.items():
        for number, (arm, row) in enumerate(arms.items()):
            table.add_row("" if number else level, arm, _number(row["mean"]), *_difference(row.get(against)))
        table.add_section()
    return table


def _table(title: str, *headings: str) -> Table:
    """Names to the left and whole, numbers to the right."""
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD)
    for heading in headings:
        named = headings.index(heading) <= headings.index("arm")
        table.add_column(heading, justify="left" if named else "right", no_wrap=named, overflow="fold")
    return table


def _against(reference: str) -> tuple[str, str, str]:
    return reference, "std. error", "p (paired t)"


def _difference(row: Mapping[str, Any] | None) -> tuple[str, str, str]:
    return (_signed(row["difference"]), _number(row["stderr"]), _p_value(row["p_value"])) if row else ("", "", "")


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
