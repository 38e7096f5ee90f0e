"""Rows of results.json as a table, as RESULTS.md and as a picture."""

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import cases

PACKAGES = ("jax", "optax", "torch", "higher", "betty-ml", "torchopt")
COLOURS = {"metapt": "#1b6ca8", "metapt, with its report": "#7fb2d9", "JAX by hand": "#444444"}
HEADER = """# How fast is a meta-iteration?

P = 10 Adam steps of pre-training (`ecg`: 3), K unrolled Adam steps of fine-tuning, the validation gradient, a Neumann series
for the inverse Hessian, one Adam step on the meta-parameters: the same weights, batches and mathematics everywhere, which
first had to give the same hypergradients in float64 to 1e-6. Then float32, one core, one process an implementation, all of
them in turn. *CPU ms* is the median of the processor's time, *spread* its interquartile range over the median, *ratio* that
to the loop written by hand in JAX, *first call* the CPU seconds of the first meta-iteration (compilation), *peak* the memory
in MB beyond what the process had before it, the compiler's own left out; freed memory stays with the process. What the
rows mean and why they are as they are: [docs/performance.md](../docs/performance.md).
"""


def read(folder: Path) -> list[dict]:
    """The rows that are there."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else []


def write(rows: list[dict], folder: Path, date: datetime.date) -> None:
    """results.json, RESULTS.md and results.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "RESULTS.md").write_text(f"{HEADER}\n{table(rows)}\n{limit(rows)}\n{machine(date)}")
    draw(rows).savefig(folder / "results.png", dpi=110)


def table(rows: list[dict]) -> str:
    """All measurements, in Markdown; then what was left out."""
    lines = [
        "| case | implementation | CPU ms | repeats | spread | ratio | wall ms | first call s | peak MB | difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    left_out = []
    for row in rows:
        if "left_out" in row:
            left_out.append(f"- `{row['case']}`, {row['implementation']}: {row['left_out']}")
        elif "cpu_seconds" in row:
            spread = f"{row['spread']:.0%}" if row["repeats"] > 2 else ""
            difference = f"{row['difference']:.0e}" if row.get("difference") else ""
            lines.append(
                f"| `{row['case']}` | {row['implementation']} | {1e3 * row['cpu_seconds']:.1f} | {row['repeats']} | "
                f"{spread} | "
                f"{row['ratio']:.2f} | {1e3 * row['wall_seconds']:.1f} | {row['first_call_seconds']:.1f} | "
                f"{row['peak_mb']:.0f} | {difference} |"
            )
    described = [f"- `{name}`: {cases.load(name).summary}" for name in dict.fromkeys(row["case"] for row in rows)]
    left = ["", "Left out:", "", *left_out] if left_out else []
    return "\n".join([*described, "", *lines, *left, ""])


def limit(rows: list[dict]) -> str:
    """What a meta-iteration costs over plain training, beside what counting operations allows."""
    lines = [
        "## Over plain training",
        "",
        "The time of a meta-iteration over that of the same P + K training steps alone, and the same ratio of floating-point",
        "operations as XLA counts them, nothing recomputed.",
        "",
        "| case | metapt | by hand | operations | metapt / operations |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["case"] for row in rows):
        by = {row["implementation"]: row for row in rows if row["case"] == name}
        seconds = {key: row["cpu_seconds"] for key, row in by.items() if "cpu_seconds" in row}
        if {"metapt", "JAX by hand", "plain training"} <= set(seconds) and "operations" in by["operations"]:
            over = {key: value / seconds["plain training"] for key, value in seconds.items()}
            counted = by["operations"]["operations"] / by["operations"]["plain_operations"]
            cells = over["metapt"], over["JAX by hand"], counted, over["metapt"] / counted
            lines.append(f"| `{name}` | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join([*lines, ""])


def machine(date: datetime.date) -> str:
    """Where and how it was measured."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return (
        f"{model[0].partition(': ')[2]}, {os.cpu_count()} cores, of which one was used and shared with other work; "
        f"Python {platform.python_version()}, {versions}. {date}, `make bench`.\n"
    )


def draw(rows: list[dict]) -> Figure:
    """Time and memory over those of the loop by hand, one group a case."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    shown = list(dict.fromkeys(row["case"] for row in rows))
    names = [
        n for n in dict.fromkeys(row["implementation"] for row in rows if "cpu_seconds" in row) if n != "plain training"
    ]
    for axes, (field, title) in zip(
        figure.subplots(2, 1),
        (
            ("cpu_seconds", "CPU time of a meta-iteration, over JAX by hand"),
            ("peak_mb", "Peak memory, over JAX by hand"),
        ),
        strict=True,
    ):
        base = {row["case"]: row[field] for row in rows if row["implementation"] == "JAX by hand" and field in row}
        for number, name in enumerate(names):
            own = {
                row["case"]: row[field] / base[row["case"]]
                for row in rows
                if row["implementation"] == name and field in row
            }
            x = [shown.index(case) + 0.8 * (number + 0.5) / len(names) - 0.4 for case in own]
            colour = COLOURS.get(name, f"C{number}")
            axes.plot(x, list(own.values()), "o", label=name, color=colour)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(title=title, yscale="log")
        axes.set_xticks(range(len(shown)), shown)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks([0.2, 0.5, 1, 2, 5, 10, 20], ["0.2", "0.5", "1", "2", "5", "10", "20"])
        axes.minorticks_off()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), ncols=4, frameon=False, loc="outside lower center")
    return figure
