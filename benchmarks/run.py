"""How fast is one meta-iteration in metapt, by hand in JAX, and in the libraries of PyTorch?

    python -m benchmarks.run [--cases mlp ecg] [--implementations metapt higher] [--repeats 15] [--out DIR]

`benchmarks.cases` says what is measured. All implementations first have to give the same hypergradients in float64, on a
small version of the case. Then every implementation runs in a process of its own, in float32 on one core, and they take
turns in an order shuffled anew every round. Prints a table, and writes results.json, RESULTS.md and results.png. A case
that is measured again replaces its rows. What is not installed is left out and named: pip install 'metapt[bench]'.
"""

import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import cases, report
from benchmarks.worker import IMPLEMENTATIONS, LONGEST

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-6
REFERENCE = "JAX by hand"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "PYTHONWARNINGS": "ignore"}
# `torch.compile` takes minutes where many steps are unrolled; the report is the same everywhere.
ENOUGH = 300  # seconds of repeats of implementations that take turns, after which three of each will do
ONLY = {"torch.func, compiled": {"mlp", "mlp_k10"}, "metapt, with its report": {"mlp", "mlp_k10", "unroll_100"}}


class Worker:
    """A `benchmarks.worker` process."""

    def __init__(self, what: str, case: str, implementation: str, core: int):
        self.implementation = implementation
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", what, case, implementation],
            cwd=ROOT,
            env=os.environ | ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )

    def read(self) -> dict:
        """The next answer; a process that ended without one is an error too."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"no first meta-iteration within {LONGEST} s of CPU time"}

    def repeat(self) -> dict:
        """One more measurement."""
        assert self.process.stdin
        print("again", file=self.process.stdin, flush=True)
        return self.read()

    def close(self) -> dict:
        """The last answer."""
        assert self.process.stdin
        self.process.stdin.close()
        answer = self.read()
        self.process.wait()
        return answer


def differences(case: str, names: list[str], core: int, advance) -> dict[str, float | str]:
    """How far, relative to its norm, every implementation's hypergradients are from the reference's; or what went wrong."""
    answers = {}
    for name in names:
        answers[name] = Worker("check", case, name, core).close()
        advance(f"{case}: {name}, hypergradient")
    truth = np.array(answers[REFERENCE]["hypergradients"])
    off = lambda found: float(np.linalg.norm(np.array(found) - truth) / np.linalg.norm(truth))
    return {n: a["error"] if "error" in a else off(a["hypergradients"]) for n, a in answers.items()}


def time_case(case: str, names: list[str], repeats: int, core: int, advance) -> list[dict]:
    """Rows of results.json. Implementations of the longest unroll run one after the other: their memory adds up."""
    together = [names] if cases.load(case).K < 1000 else [[name] for name in names]
    return [row for group in together for row in _time_group(case, group, repeats, core, advance)]


def _time_group(case: str, names: list[str], repeats: int, core: int, advance) -> list[dict]:
    workers, first, found = [], {}, {name: [] for name in names}
    for name in names:
        worker = Worker("time", case, name, core)
        first[name] = worker.read()
        if "error" not in first[name]:
            workers.append(worker)
        advance(f"{case}: {name}, first call")
    began = time.monotonic()
    for number in range(repeats):
        if number >= 3 and time.monotonic() - began > ENOUGH:
            break
        for worker in random.sample(workers, len(workers)):
            found[worker.implementation].append(worker.repeat())
        for _ in names:
            advance(f"{case}: repeat {number + 1} of {repeats}")
    peaks = {worker.implementation: worker.close()["peak_mb"] for worker in workers}
    rows = []
    for name in names:
        row = {"case": case, "implementation": name}
        if "error" in first[name]:
            rows.append(row | {"left_out": first[name]["error"]})
            continue
        cpu = [one["cpu"] for one in found[name]]
        row |= {
            "cpu_seconds": float(np.median(cpu)),
            "wall_seconds": float(np.median([o["wall"] for o in found[name]])),
        }
        row |= {"repeats": len(cpu), "spread": float(np.subtract(*np.quantile(cpu, [0.75, 0.25])) / np.median(cpu))}
        rows.append(row | {"first_call_seconds": first[name]["first"], "peak_mb": peaks[name]})
    return rows


def with_ratios(rows: list[dict]) -> list[dict]:
    """Every measured row of a case with its CPU time over that of the loop by hand."""
    by_hand = {row["case"]: row["cpu_seconds"] for row in rows if row["implementation"] == REFERENCE}
    return [row | {"ratio": row["cpu_seconds"] / by_hand[row["case"]]} if "cpu_seconds" in row else row for row in rows]


def run_case(case: str, wanted: list[str], repeats: int, core: int, advance) -> list[dict]:
    """All rows of a case."""
    names = [name for name in wanted if case in ONLY.get(name, {case})]
    checked = [name for name in names if name not in ("plain training", "metapt, with its report")]
    off = differences(case, checked, core, advance)
    wrong = {name: value for name, value in off.items() if isinstance(value, str) or value > TOLERANCE}
    rows = time_case(case, [name for name in names if name not in wrong], repeats, core, advance)
    for row in rows:
        if row["implementation"] in off:
            row["difference"] = off[row["implementation"]]
    why = lambda value: value if isinstance(value, str) else f"another hypergradient: {value:.1e} from the reference's"
    rows += [{"case": case, "implementation": name, "left_out": why(value)} for name, value in wrong.items()]
    counts = Worker("operations", case, REFERENCE, core).close()
    return with_ratios([*rows, {"case": case, "implementation": "operations", **counts}])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(cases.NAMES), choices=cases.NAMES)
    parser.add_argument("--implementations", nargs="+", default=list(IMPLEMENTATIONS), choices=list(IMPLEMENTATIONS))
    parser.add_argument("--repeats", type=int, default=15, help="at most; fewer, but three, where a case takes minutes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    wanted = list(dict.fromkeys([*options.implementations, REFERENCE, "plain training"]))
    core = max(os.sched_getaffinity(0))
    kept = report.read(options.out)
    rows = [row for row in kept if row["case"] not in options.cases]
    columns = (TextColumn("{task.description:45}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        total = len(options.cases) * len(wanted) * (2 + options.repeats)
        task = progress.add_task("", total=total)
        for number, case in enumerate(options.cases, 1):
            advance = lambda text: progress.update(task, advance=1, description=text)
            rows += run_case(case, wanted, options.repeats, core, advance)
            progress.update(task, completed=total * number // len(options.cases))
            rows.sort(
                key=lambda row: (
                    cases.NAMES.index(row["case"]),
                    [*IMPLEMENTATIONS, "operations"].index(row["implementation"]),
                )
            )
            report.write(rows, options.out, datetime.date.today())
    print(report.table(rows))


if __name__ == "__main__":
    main()
