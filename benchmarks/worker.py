"""One implementation of one case in a process of its own. Prints a JSON object a line; `benchmarks.run` starts it.

python -m benchmarks.worker check|operations|time CASE IMPLEMENTATION
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cases

SHORTEST = 0.2  # seconds of one repeat: as many meta-iterations as fit, at least one
LONGEST = 150  # CPU seconds that a first meta-iteration may take
IMPLEMENTATIONS = {
    "metapt": "metapt_.prepare",
    "metapt, with its report": "metapt_.prepare_with_report",
    "JAX by hand": "jax_loop.prepare",
    "higher": "higher_.prepare",
    "torch.func": "torch_func.prepare",
    "torch.func, compiled": "torch_func.prepare_compiled",
    "Betty": "betty_.prepare",
    "TorchOpt": "torchopt_.prepare",
    "plain training": "jax_loop.prepare_plain",
}


def prepare(name: str, case: cases.Case, float64: bool) -> cases.Run:
    """An implementation by its name in the table."""
    module, function = IMPLEMENTATIONS[name].split(".")
    return getattr(importlib.import_module(f"benchmarks.implementations.{module}"), function)(case, float64)


def hypergradients(name: str, case: cases.Case, iterations: int = 2) -> np.ndarray:
    """Those of the first meta-iterations in float64, one after the other, flat."""
    ready, found = prepare(name, case, float64=True), []
    for _ in range(iterations):
        ready.advance()
        found += [seed[key].ravel() for seed in ready.hypergradient() for key in sorted(seed)]
    return np.concatenate(found)


def operations(case: cases.Case) -> dict:
    """Floating-point operations of a meta-iteration by hand without recomputation, and of plain training, as XLA counts them.

    XLA counts the inside of a loop once, so there are none here; of long ones the count grows by the same with every step.
    """
    import jax

    from benchmarks.implementations import jax_common, jax_loop

    def count(case: cases.Case, hypergradient: bool) -> float:
        arrays = jax_common.load(case, float64=False)
        init, step = jax_loop.make(case, hypergradient, unrolled=True)
        cost: Any = jax.jit(step).lower(init(arrays), arrays).cost_analysis()
        return cost["flops"]

    def whole(hypergradient: bool) -> float:
        if case.K <= 10:
            return case.seeds * count(case._replace(seeds=1), hypergradient)
        few, more = (count(case._replace(K=K, arrays=lambda seed, K=K: _cut(case, K)), hypergradient) for K in (4, 8))
        return few + (more - few) / 4 * (case.K - 4)

    return {"operations": whole(True), "plain_operations": whole(False)}


def _cut(case: cases.Case, K: int) -> cases.Arrays:
    arrays = case.arrays(0)
    return arrays._replace(finetune={name: x[:K] for name, x in arrays.finetune.items()})


def measure(advance, count: int) -> dict:
    """Seconds of one meta-iteration, of the processor (all threads) and by the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(count):
        advance()
    return {"cpu": (time.process_time() - cpu) / count, "wall": (time.perf_counter() - wall) / count}


def memory(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the most since `forget_peak`) of this process, in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000


def keep_memory() -> None:
    """What is freed stays with this process: else glibc maps large blocks anew at every call, a page fault every 4 kB.

    By the names of malloc.h: M_ARENA_MAX (so that threads share what is kept), M_MMAP_MAX, M_TRIM_THRESHOLD.
    """
    for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1)):
        ctypes.CDLL(None).mallopt(option, value)


def forget_peak() -> None:
    """From here on the peak counts anew: what a compiler took and gave back is left out."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def main(what: str, case_name: str, implementation: str, answer) -> None:
    """Answers every line of standard input with a repeat; at its end, with the peak of memory."""
    if what == "check":
        found = hypergradients(implementation, cases.load(case_name, small=True))
        return answer({"hypergradients": found.tolist()})
    if what == "operations":
        return answer(operations(cases.load(case_name)))
    keep_memory()
    ready = prepare(implementation, cases.load(case_name), float64=False)
    before = memory("VmRSS")
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + LONGEST, hard))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    first = measure(ready.advance, 1)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    forget_peak()
    second = measure(ready.advance, 1)
    answer({"first": first["cpu"], "second": second})
    count = max(1, int(SHORTEST / second["cpu"]))
    for _ in sys.stdin:
        answer(measure(ready.advance, count))
    answer({"peak_mb": memory("VmHWM") - before})


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "w")  # what libraries print goes elsewhere
    os.dup2(2, 1)

    to_parent = lambda message: print(json.dumps(message), file=channel, flush=True)

    with contextlib.suppress(BrokenPipeError):
        try:
            main(sys.argv[1], sys.argv[2], sys.argv[3], to_parent)
        except Exception as error:
            to_parent({"error": f"{type(error).__name__}: {error}".splitlines()[0][:160]})
