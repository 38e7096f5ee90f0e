"""Figures of the experiments on electrocardiograms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _common import REPORT, by_level
from _ecg import EcgConfig

from metapt import data
from metapt.io import arms, plots
from metapt.io.experiment import Outcome


def figures(config: EcgConfig, compared, outcome: Outcome) -> dict[str, Any]:
    """`by_seen`: for every number of records that meta-learning sees, the comparison with `meta` at every size."""
    levels = {name: _by_seen(config, parts) for name, parts in outcome.parts.items()}
    return {
        "by_seen": {
            str(seen): by_level({name: parts[i].T for name, parts in levels.items()}, config.sizes, "meta")
            for i, seen in enumerate(config.seen)
        },
        "warp_samples": {name: _last(outcome, f"warp.{name}") for name in ("all", *data.SUPERCLASSES)},
        "views": {name: _last(outcome, f"views.{name}") for name in config.also},
        "search_found": np.asarray(outcome.exports["search"]["found"], float).tolist(),
        "gradient_evaluations": arms.gradient_evaluations(compared),
    }


def _by_seen(config: EcgConfig, values: np.ndarray) -> np.ndarray:
    """`[runs, ...]` as `[seen, seeds, ...]`."""
    return values.reshape(len(config.seen), config.seeds, *values.shape[1:])


def _logged(outcome: Outcome, name: str) -> np.ndarray:
    return np.array(outcome.infos["meta"][name], float)  # [outer steps, runs]; None becomes NaN


def _last(outcome: Outcome, name: str) -> float:
    """Mean over the runs and the last tenth of meta-learning."""
    values = _logged(outcome, name)
    return float(np.nanmean(values[-max(1, len(values) // 10) :]))


def pictures(config: EcgConfig, ecg: data.Ecg, outcome: Outcome):
    area = "area under the ROC curve"
    path = lambda values: list(enumerate(values))
    warp = {name: path(_logged(outcome, f"warp.{name}")) for name in data.SUPERCLASSES}
    views = {name: path(_logged(outcome, f"views.{name}")) for name in config.also}
    figures = {
        "learning_curves": plots.learning_curves(outcome.curves, "outer step", f"{area}, held out"),
        "hypergradient": plots.reports(outcome.infos["meta"], REPORT),
        "warp_by_superclass": plots.learning_curves(warp, "outer step", "warp, samples"),
        "views": plots.learning_curves(views, "outer step", "strength"),
        "warps": plots.ecg_paper(_warps(ecg, _logged(outcome, "warp.all")[:, 0])),
    }
    for i, seen in enumerate(config.seen):
        scores = {name: _by_seen(config, parts)[i].T for name, parts in outcome.parts.items()}
        figures[f"sizes_{seen}"] = plots.by_level(scores, config.sizes, "labelled records of the fine-tuning", area)
    return figures


def _warps(ecg: data.Ecg, strength: np.ndarray) -> dict[str, np.ndarray]:
    """Lead II of one record, and one warp of it at the strengths along the way."""
    record = ecg.unit * ecg.signals[:1].astype(np.float32)
    lead = data.LEADS.index("II")
    strips = {"as recorded": record[0, :, lead]}
    for step in np.linspace(0, len(strength) - 1, 4).round().astype(int):
        warped = data.time_warp(strength[step], jnp.asarray(record), jax.random.key(0))
        strips[f"outer step {step}: {strength[step]:.3g} samples"] = np.asarray(warped[0, :, lead])
    return strips
