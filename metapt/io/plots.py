"""Figures that any experiment can use. Matplotlib without a window."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

_COLORS = {
    "none": "#999999",
    "scratch": "#999999",
    "equal": "#0072B2",
    "random": "#56B4E9",
    "cosine": "#117733",
    "cotrain": "#CC79A7",
    "cotrain_pcgrad": "#882255",
    "meta": "#D55E00",
    "replay": "#E69F00",
    "oracle": "#009E73",
    "simclr_no_warp": "#0072B2",
    "simclr_random_warp": "#56B4E9",
    "simclr_tuned_warp": "#117733",
    "search": "#CC79A7",
}


def learning_curves(curves: Mapping[str, Sequence[tuple[int, Sequence[float]]]], xlabel: str, ylabel: str) -> Figure:
    """Mean over seeds and a band of one standard error, one line an arm; an arm with a single point is a dashed level."""
    figure, axes = _axes((7.5, 4.5))
    for number, (name, points) in enumerate(curves.items()):
        steps = np.array([step for step, _ in points])
        values = np.array([per_seed for _, per_seed in points])  # [points, seeds]
        mean, stderr = values.mean(1), values.std(1, ddof=min(1, values.shape[1] - 1)) / np.sqrt(values.shape[1])
        color = _COLORS.get(name, f"C{number}")  # a level would not take the next color by itself
        if len(points) == 1:
            axes.axhline(mean[0], color=color, linestyle="--", label=name)
            continue
        axes.plot(steps, mean, color=color, label=name)
        axes.fill_between(steps, mean - stderr, mean + stderr, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))  # beside the curves, of which there may be many
    return figure


def weights(values: np.ndarray, real: np.ndarray, title: str) -> Figure:
    """The learned weight of every task, `[seeds, T]`: mean and range over seeds, sorted within real and noise tasks."""
    figure, axes = _axes((9.0, 4.5))
    start = 0
    for name, mask, color in (("real tasks", real, "#009E73"), ("noise tasks", ~real, "#CC3311")):
        if not mask.any():
            continue
        part = values[:, mask]
        part = part[:, np.argsort(-part.mean(0))]
        x = np.arange(start, start + part.shape[1])
        axes.vlines(x, part.min(0), part.max(0), color=color, alpha=0.3, linewidth=1)
        axes.plot(x, part.mean(0), "o", color=color, markersize=3, label=f"{name} (mean {part.mean():.3g})")
        start += part.shape[1]
    axes.axhline(1.0, color="black", linestyle=":", linewidth=1, label="equal weights")
    axes.set(xlabel="task (sorted by mean weight)", ylabel="learned weight", title=title, yscale="symlog")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def families(values: np.ndarray, family: np.ndarray, names: Sequence[str]) -> Figure:
    """The learned weight of every task, `[seeds, T]`: mean over seeds, sorted, coloured by the task's family."""
    figure, axes = _axes((9.0, 4.5))
    mean = values.mean(0)
    place = np.empty(len(mean), int)
    place[np.argsort(-mean)] = np.arange(len(mean))
    for number, name in enumerate(names):
        these, color = family == number, colormaps["tab20"](number % 20)
        axes.bar(place[these], mean[these], width=1.0, color=color, label=f"{name} (mean {mean[these].mean():.2f})")
    axes.axhline(1.0, color="black", linestyle=":", linewidth=1, label="equal weights")
    axes.set(xlabel="task (sorted by mean weight)", ylabel="learned weight, mean over runs")
    axes.legend(loc="upper right", ncols=1 + len(names) // 6, fontsize=8)
    return figure


def example_weights(values: np.ndarray, right: np.ndarray, levels: np.ndarray) -> Figure:
    """Learned weights of examples, `[runs, N]`, by whether the label is right: one panel a level of noise, `levels` `[runs]`."""
    shown = np.unique(levels)
    figure = Figure(figsize=(3.6 * len(shown), 3.6), layout="constrained")
    panels = figure.subplots(1, len(shown), sharex=True, squeeze=False)[0]
    bins = np.geomspace(1e-6, max(10.0, values.max()), 60)
    for axes, level in zip(panels, shown, strict=True):
        these, ok = values[levels == level], right[levels == level]
        for mask, name, color in ((ok, "right", "#009E73"), (~ok, "wrong", "#CC3311")):
            if mask.any():
                label = f"{name} labels (mean {these[mask].mean():.2g})"
                axes.hist(np.maximum(these[mask], bins[0]), bins, color=color, alpha=0.6, label=label)
        xlabel = "learned weight (first bar: all below 1e-6)"
        axes.set(xscale="log", yscale="log", title=f"{level:.0%} wrong labels", xlabel=xlabel)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, loc="upper center")  # between the two heaps; to search for a place takes a second
    panels[0].set_ylabel("examples, all seeds")
    return figure


def traces(values: np.ndarray, target: float, xlabel: str, ylabel: str, title: str) -> Figure:
    """One line a run, `[steps, runs]`, coloured by where it starts, and the target."""
    figure, axes = _axes((7.5, 4.5))
    axes.set_prop_cycle(color=colormaps["viridis"](np.linspace(0.0, 0.9, values.shape[1])))
    axes.plot(values, linewidth=1.3)
    axes.axhline(target, color="black", linestyle="--", linewidth=1, label=f"target {target:g}")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend()
    return figure


def reports(infos: Mapping[str, Sequence[Sequence[float | None]]], panels: Mapping[str, Sequence[str]]) -> Figure:
    """The hypergradient's report over outer steps, by panel the names of its figures: median over seeds and the range.

    What the solve reports (`report.`) is shown where there was one.
    """
    figure = Figure(figsize=(7.5, 1.9 * len(panels)), layout="constrained")
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    solved = np.array(infos["report.solves"], float) > 0
    for axes, (label, names) in zip(rows, panels.items(), strict=True):
        for name, color, style in zip(names, ("#D55E00", "#0072B2", "#009E73"), ("-", "--", ":"), strict=False):
            values = np.array(infos[name], float)  # [steps, seeds], None becomes NaN
            values = np.where(solved | (not name.startswith("report.")), values, np.nan)
            steps = np.flatnonzero(~np.isnan(values).all(1))
            known = values[steps]
            axes.plot(steps, np.nanmedian(known, 1), style, color=color, linewidth=1, label=name.removesuffix("_norm"))
            axes.fill_between(steps, np.nanmin(known, 1), np.nanmax(known, 1), color=color, alpha=0.2, linewidth=0)
        if len(names) > 1:
            axes.legend(fontsize=7, frameon=False)
        axes.set_ylabel(label, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("outer step")
    return figure


def gains(values: Mapping[str, np.ndarray], xlabel: str, ylabel: str) -> Figure:
    """What every arm gains on every task, `[runs, T]` each, NaN where it was not judged: mean over runs and standard error.

    Tasks are sorted by the gain of `meta`; the legend says on how many of them an arm gains.
    """
    figure, axes = _axes((9.0, 4.5))
    runs = {name: (~np.isnan(v)).sum(0) for name, v in values.items()}
    judged = np.min(list(runs.values()), axis=0) > 0
    order = np.argsort(-np.nanmean(values["meta"][:, judged], axis=0))
    for name, gain in values.items():
        known, count = gain[:, judged][:, order], runs[name][judged][order]
        mean, stderr = np.nanmean(known, axis=0), np.nanstd(known, axis=0) / np.sqrt(np.maximum(count - 1, 1))
        label = f"{name} (mean {mean.mean():+.3f}, above on {(mean > 0).sum()} of {len(mean)})"
        axes.errorbar(
            np.arange(len(mean)),
            mean,
            stderr,
            fmt="o",
            markersize=3,
            elinewidth=0.8,
            alpha=0.8,
            color=_COLORS.get(name),
            label=label,
        )
    axes.axhline(0.0, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend()
    return figure


def by_level(values: Mapping[str, np.ndarray], levels: Sequence[float], xlabel: str, ylabel: str) -> Figure:
    """Every arm, `[levels, seeds]` each, against a setting: mean over seeds and standard error."""
    figure, axes = _axes((7.5, 4.5))
    for name, scores in values.items():
        stderr = scores.std(1, ddof=min(1, scores.shape[1] - 1)) / np.sqrt(scores.shape[1])
        axes.errorbar(levels, scores.mean(1), stderr, marker="o", markersize=4, color=_COLORS.get(name), label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend()
    return figure


def ecg_paper(strips: Mapping[str, np.ndarray], rate: float = 100.0) -> Figure:
    """Signals in millivolts, `[T]` each, one below the other on standard paper: 25 mm a second, 10 mm a millivolt.

    A small square is 0.04 s and 0.1 mV, a large one 0.2 s and 0.5 mV.
    """
    seconds = max(map(len, strips.values())) / rate
    figure = Figure(figsize=(seconds + 0.6, len(strips) * 0.9 + 0.6), layout="constrained")
    axes = figure.subplots()
    for row, (name, millivolts) in enumerate(strips.items()):
        level = -2.0 * row
        axes.plot(np.arange(len(millivolts)) / rate, millivolts + level, color="black", linewidth=0.8)
        axes.text(
            0.05, level + 1.1, name, fontsize=8, va="top", bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0}
        )
    axes.set(xlim=(0, seconds), ylim=(-2.0 * len(strips) + 0.5, 1.5), xlabel="seconds", aspect=0.4)
    axes.set_xticks(
        np.arange(0, seconds, 0.2),
        [f"{t:g}" if i % 5 == 0 else "" for i, t in enumerate(np.arange(0, seconds, 0.2).round(1))],
    )
    axes.set_xticks(np.arange(0, seconds, 0.04), minor=True)
    axes.set_yticks(np.arange(-2.0 * len(strips) + 0.5, 1.6, 0.5), [])
    axes.set_yticks(np.arange(-2.0 * len(strips) + 0.5, 1.6, 0.1), minor=True)
    axes.grid(which="minor", color="#F4C7C3", linewidth=0.3)
    axes.grid(which="major", color="#E67C73", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    return figure


def _axes(size: tuple[float, float]):
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
