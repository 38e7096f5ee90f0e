"""Runs an experiment: every arm over all seeds at once, in chunks, with checkpoints between them."""

import functools
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metapt.algorithm import run as run_steps
from metapt.io import stats
from metapt.io.checkpoint import Checkpoints, as_tree
from metapt.io.diagnosis import Watch, advice
from metapt.io.experiment import Arm, Draw, Experiment, Outcome, Phase, Step, check_data
from metapt.io.folder import RunFolder, versions
from metapt.io.mesh import seed_devices, seed_sharding
from metapt.io.progress import Bar, progress_bar
from metapt.io.zero import cut_at
from metapt.types import PyTree

_log = logging.getLogger("metapt")
CHUNKS = 10  # an arm is judged on the held-out data, and may be checkpointed, this often
SECONDS_BETWEEN_CHECKPOINTS = 5.0


def run_experiment(
    experiment: Experiment, name: str, seed: int, folder: RunFolder, quiet: bool = False
) -> dict[str, Any]:
    """Runs, or continues, `experiment` in `folder`; writes `result.json` and the plots; returns the result."""
    begun = time.monotonic()
    check_data(experiment.data)
    runs = jax.tree.leaves(experiment.data)[0].shape[0]
    runner = _Runner(experiment, jax.random.split(jax.random.key(seed), runs), folder)
    total = sum(phase.steps for arm in experiment.arms for phase in arm.phases)
    try:
        with progress_bar(total, runner.resume(), quiet) as bar:
            for index in range(runner.arm, len(experiment.arms)):
                runner.run_arm(index, bar)
            bar.label("final evaluation")
            outcome = runner.outcome()
    finally:
        runner.checkpoints.close()
    result = {
        "name": name,
        "metric": experiment.metric,
        "higher_is_better": experiment.higher_is_better,
        "arms": {arm: stats.summary(scores) for arm, scores in outcome.scores.items()},
        "comparisons": stats.comparisons(outcome.scores, experiment.baseline),
        "meta": experiment.summarize(outcome),
        "skipped_updates": _total(outcome, "skipped"),
        "skipped_steps": _total(outcome, "pretrain.skipped") + _total(outcome, "finetune.skipped"),
        "advice": advice(outcome.infos),
        "seconds": round(runner.seconds_before + time.monotonic() - begun, 1),
        "versions": versions(),
    }
    folder.plots.mkdir(exist_ok=True)
    for plot, figure in experiment.plots(outcome).items():
        figure.savefig(folder.plots / f"{plot}.png", dpi=110)
    folder.write_json("result.json", result)
    return result


def _total(outcome: Outcome, figure: str) -> int:
    return int(sum(np.sum(infos.get(figure, 0)) for infos in outcome.infos.values()))


class _Runner:
    """The position of a run: which arm, how many outer steps of it, and what the finished arms left."""

    def __init__(self, experiment: Experiment, keys: Array, folder: RunFolder):
        sharding, devices = seed_sharding(experiment.mesh), seed_devices(experiment.mesh)
        self._place = lambda tree: jax.device_put(tree, sharding)
        self._jit = functools.partial(jax.jit, out_shardings=sharding)  # so that a chunk finds what it leaves
        self.experiment, self.keys, self.folder = experiment, self._place(keys), folder
        self.checkpoints = Checkpoints(folder.checkpoints)
        self.arm, self.done, self.state = 0, 0, None
        self.exports: dict[str, PyTree] = {}
        self._looked_at: set[str] = set()  # arms whose first hypergradients have been looked at
        self.curves: dict[str, list] = {}
        self.seconds_before, self._begun, self._saved = 0.0, time.monotonic(), time.monotonic()
        self._chunk = functools.cache(self._compile_chunk)
        self._over_seeds = jax.vmap if experiment.seeds_together else functools.partial(_one_by_one, devices)
        self._monitor = self._jit(self._over_seeds(experiment.monitor))
        self._evaluate = self._jit(self._over_seeds(experiment.evaluate))

    def resume(self) -> int:
        """Goes to the last checkpoint, if there is one; returns the number of outer steps already done."""
        found = self.checkpoints.newest(self.folder.metrics_size())
        if found is None:
            self.folder.truncate_metrics(0)
            return 0
        number, position, leaves = found
        self.arm, self.done, self.curves = position["arm"], position["done"], position["curves"]
        self.seconds_before = position["seconds"]
        exports: dict[str, PyTree] = {}
        for arm in self.experiment.arms[: self.arm]:
            exports[arm.name] = jax.eval_shape(arm.export, jax.eval_shape(self._init(arm), exports))
        state = jax.eval_shape(self._init(self.experiment.arms[self.arm]), exports) if self.done else None
        restored_state, restored = as_tree(leaves, (state, exports))
        self.state = self._place(restored_state)
        self.exports = {name: restored[name] for name in exports}  # in the order of the arms, which a tree forgets
        self.folder.truncate_metrics(position["metrics_size"])
        _log.info("resumed at outer step %d", number)
        return number

    def run_arm(self, index: int, bar: Bar) -> None:
        arm = self.experiment.arms[index]
        bar.label(arm.name)
        watch = Watch()
        if self.done == 0:
            self.state = self._init(arm)(self.exports)
            self.curves[arm.name] = [(0, self._judge(arm))]
        for phase, numbers, judged in _chunks(arm, self.done):
            self.state, info = self._chunk(phase.step, phase.draw)(
                self.state, self.keys, self.experiment.data, jnp.asarray(numbers)
            )
            figures = _figures(info)
            rows = list(_rows(arm.name, numbers, figures))
            self.folder.log(rows)
            watch.see(arm.name, figures)
            self._say_if_zero(arm, phase, rows)
            self.done = numbers[-1] + 1
            if judged:
                self.curves[arm.name].append((self.done, self._judge(arm)))
            bar.advance(len(numbers))
            if time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS:
                self._save()
        self.exports[arm.name] = jax.device_get(jax.vmap(arm.export)(self.state))
        self.arm, self.done, self.state = index + 1, 0, None

    def _say_if_zero(self, arm: Arm, phase: Phase, rows: list[dict[str, Any]]) -> None:
        """Of the first hypergradients of an arm: where the derivative is cut, no longer training will help."""
        norms = np.array([row.get("hypergradient_norm", [None]) for row in rows], float)
        if arm.name in self._looked_at or np.isnan(norms).all():
            return
        self._looked_at.add(arm.name)
        if (norms == 0).all():
            data, state = (jax.tree.map(lambda x: x[0], tree) for tree in (self.experiment.data, self.state))
            batches = (phase.draw or self.experiment.draw)(data, self.keys[0])
            where = cut_at(arm, phase.step, state, batches, self.keys[0])
            _log.warning(
                "%s: the hypergradient is exactly zero from outer step %d on: %s", arm.name, rows[0]["step"], where
            )

    def outcome(self) -> Outcome:
        """Reads the test set, once for every arm."""
        data, test = self.experiment.data, self.experiment.test
        parts = {
            name: _by_part(self._evaluate(export["encoder"], data, test, self.keys))
            for name, export in self.exports.items()
        }
        infos: dict[str, dict[str, list]] = {}
        for row in self.folder.read_metrics():
            for figure, values in row.items():
                if figure not in ("arm", "step"):
                    infos.setdefault(row["arm"], {}).setdefault(figure, []).append(values)
        scores = {name: _mean(values) for name, values in parts.items()}
        return Outcome(scores, self.exports, self.curves, infos, parts)

    def _init(self, arm: Arm) -> Callable[[dict[str, PyTree]], PyTree]:
        init = self._jit(self._over_seeds(arm.init))  # hundreds of small operations: one program is faster
        return lambda exports: init(self.keys, self.experiment.data, exports)

    def _compile_chunk(self, step: Step, draw: Draw | None):
        def chunk(state, keys, data, numbers):
            def run(state, key, data):
                return run_steps(step, functools.partial(draw or self.experiment.draw, data), state, key, numbers)

            return self._over_seeds(run)(state, keys, data)

        return self._jit(chunk, donate_argnums=0)

    def _judge(self, arm: Arm) -> list[float]:
        encoder = jax.vmap(arm.export)(self.state)["encoder"]
        return _mean(_by_part(self._monitor(encoder, self.experiment.data, self.keys))).tolist()

    def _save(self) -> None:
        before = sum(phase.steps for arm in self.experiment.arms[: self.arm] for phase in arm.phases)
        position = {
            "arm": self.arm,
            "done": self.done,
            "curves": self.curves,
            "metrics_size": self.folder.metrics_size(),
            "seconds": self.seconds_before + time.monotonic() - self._begun,
        }
        self.checkpoints.save(before + self.done, (self.state, self.exports), position)
        self._saved = time.monotonic()


def _one_by_one(devices: int, f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """As `jax.vmap(f)`, but in a loop: one on each device."""
    loop = lambda args: jax.lax.map(lambda one: f(*one), args)
    if devices == 1:
        return lambda *args: loop(args)
    split = lambda x: x.reshape(devices, -1, *x.shape[1:])
    join = lambda x: x.reshape(-1, *x.shape[2:])
    return lambda *args: jax.tree.map(join, jax.vmap(loop)(jax.tree.map(split, args)))


def _by_part(metric: Array) -> np.ndarray:
    """A metric by seed, as `[seeds, parts]`."""
    values = np.asarray(metric, np.float64)
    return values.reshape(len(values), -1)


def _mean(parts: np.ndarray) -> np.ndarray:
    """Over the parts that can be judged; NaN if none can."""
    judged = ~np.isnan(parts)
    return np.where(judged.any(1), np.sum(parts, axis=1, where=judged) / np.maximum(judged.sum(1), 1), np.nan)


def _chunks(arm: Arm, done: int) -> Iterator[tuple[Phase, range, bool]]:
    """What is left of an arm, as (phase, numbers of the outer steps, whether to judge then), the same on every run."""
    total = sum(phase.steps for phase in arm.phases)
    size = max(1, math.ceil(total / CHUNKS))
    first, judge_at = 0, size
    for phase in arm.phases:
        piece = _piece(phase.steps, size)
        for begin in range(first, first + phase.steps, piece):
            end = min(begin + piece, first + phase.steps)
            judged = end >= judge_at or end == total
            judge_at = end + size if judged else judge_at
            if end > done:
                yield phase, range(begin, end), judged
        first += phase.steps


def _piece(steps: int, most: int) -> int:
    """The largest divisor of `steps` up to `most`, as pieces of one length share a program; `most` if that is too small."""
    divisor = max(n for n in range(1, most + 1) if steps % n == 0)
    return divisor if 3 * divisor >= most else most


def _figures(info: PyTree) -> dict[str, np.ndarray]:
    """Every leaf by its dotted name, `[seeds, steps, ...]`."""
    leaves = jax.tree_util.tree_leaves_with_path(info)
    name = lambda path: ".".join(str(getattr(key, "name", getattr(key, "key", key))) for key in path)
    return {name(path): np.asarray(leaf) for path, leaf in leaves}


def _rows(arm: str, numbers: range, figures: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """One row an outer step; every figure is a list over seeds: over its further axes events are counted, numbers averaged."""
    rows = {}
    for name, values in figures.items():
        of_step = values.reshape(*values.shape[:2], -1).astype(np.float64)
        rows[name] = of_step.sum(-1) if values.dtype == bool else of_step.mean(-1)
    for i, number in enumerate(numbers):
        row = {name: [x if math.isfinite(x) else None for x in values[:, i].tolist()] for name, values in rows.items()}
        yield {"arm": arm, "step": number, **row}
