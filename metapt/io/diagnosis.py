"""What went wrong with the numbers of a run, in words: when to stop, and the closing lines."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metapt.io.errors import UserError

STOP_AFTER = 20  # outer steps in a row in which nothing was finite, in any seed
_STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning"}
_CURES = {
    "pretrain.skipped": ("pre-training step", "look for NaN or infinities in the data, or lower the learning rate"),
    "finetune.skipped": (
        "fine-tuning step",
        "look for NaN or infinities in the labelled data, or lower its learning rate",
    ),
    "skipped": (
        "hypergradient",
        "the losses are finite, their derivatives are not: `metapt doctor CONFIG` compares the rules; fewer terms or more "
        "damping in the solver, eps_root > 0 in an unrolled Adam",
    ),
}


class Watch:
    """Counts the outer steps in a row in which every step, or every hypergradient, of all seeds was skipped."""

    def __init__(self):
        self._streaks: dict[str, int] = {}

    def see(self, arm: str, figures: Mapping[str, np.ndarray]) -> None:
        """`figures`: name -> `[seeds, outer steps, ...]`.

        Raises:
            UserError: with the diagnosis, after STOP_AFTER of them.
        """
        for name, (what, cure) in _CURES.items():
            skipped = figures.get(name)
            if skipped is None or not skipped.size:
                continue
            by_step = np.moveaxis(skipped.astype(bool), 1, 0).reshape(skipped.shape[1], -1)
            for all_skipped in map(np.all, by_step):
                self._streaks[name] = self._streaks.get(name, 0) + 1 if all_skipped else 0
                if self._streaks[name] >= STOP_AFTER:
                    raise UserError(
                        f"arm {arm}: stopped, as every {what} of the last {STOP_AFTER} outer steps was not finite, in all "
                        f"seeds: {cure}"
                    )


def advice(infos: Mapping[str, Mapping[str, list]]) -> list[str]:
    """One line a finding: `infos` is arm -> figure -> `[outer steps][seeds]`, None where it was not finite."""
    lines = []
    for arm, figures in infos.items():
        figure = lambda name, figures=figures: np.array(figures.get(name, []), float)
        found = (*_skipped(figure), *_losses(figure), *_dead(figure), *_solves(figure))
        lines += [f"arm {arm}: {line}" for line in found]
    return lines


def _skipped(figure: Any) -> list[str]:
    return [
        f"{int(count)} times a {what} was not finite and was left out: {cure}"
        for name, (what, cure) in _CURES.items()
        if (count := figure(name).sum())
    ]


def _losses(figure: Any) -> list[str]:
    """A loss that is not finite does not stop a step whose gradient is, but nobody should miss it."""
    lost = {
        what: np.isnan(figure(f"{stage}.loss")) & np.isfinite(figure(f"{stage}.grad_norm"))  # neither: no such stage
        for stage, what in _STAGES.items()
    }
    return [
        f"in {int(bad.sum())} outer steps (of all seeds) a loss of {what} was not finite though its gradients were, so its "
        "steps were taken: look for an overflow, or for a constant in the loss that is not finite"
        for what, bad in lost.items()
        if bad.any()
    ]


def _dead(figure: Any) -> list[str]:
    """Units that got no gradient in any of the last outer steps: the least share there is a bound on those that never will."""
    shares = {what: _late(figure(f"{stage}.dead")) for stage, what in _STAGES.items()}
    return [
        f"{share:.0%} of the biases and scales of {what} had no gradient at the end: dead units (lower the learning rate, "
        "or take leaky_relu or gelu), or outputs that no example asks for"
        for what, late in shares.items()
        if np.isfinite(late).any() and (share := float(np.nanmean(np.fmin.reduce(late)))) > 0.1
    ]


def _late(figure: np.ndarray) -> np.ndarray:
    """The last quarter of the outer steps."""
    return figure[-max(1, len(figure) // 4) :]


def _solves(figure: Any) -> list[str]:
    solved = figure("report.solves") > 0
    if not solved.any():
        return []
    share = lambda bad: float(np.mean(bad[solved]))
    norm = figure("hypergradient_norm")[solved]
    late = _late(norm)
    findings = (
        (
            share(figure("report.contraction") >= 1),
            "the solver's iteration diverged in {:.0%} of the solves (contraction of 1 or more a term): take fewer terms, "
            "a smaller step, or solvers.cg or minres with damping",
        ),
        (
            share(figure("report.negative_curvature") > 0),
            "curvature was indefinite in {:.0%} of the solves: take solvers.minres, damping, or the Gauss-Newton curvature "
            "(hypergrad.linearized)",
        ),
        (
            float(np.mean((late > 0) & (late < 1e-8 * np.nanmax(norm)))) if np.isfinite(norm).any() else 0.0,
            "hypergradients vanished in {:.0%} of the last updates (below 1e-8 of the largest): learning is over, or the "
            "meta-parameters are where their constraint is flat; stop earlier or lower their learning rate",
        ),
    )
    return [line.format(part) for part, line in findings if part > 0.1]
