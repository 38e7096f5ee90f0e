"""Data that do not fit: read by every process for itself, and sent to the devices while these still compute."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from metapt.checks import whole
from metapt.types import PyTree

AHEAD = 2  # batches on their way to the devices while one is in use


def prefetch(batches: Iterable[PyTree], place: Callable[[PyTree], PyTree] = jax.device_put) -> Iterator[PyTree]:
    """The same batches in the same order, on the devices; two are on their way while one is in use.

    Copies and computations run asynchronously, so that a step does not wait for its data unless reading is the slower of
    the two. No more than three batches are on the devices at a time, if the caller keeps none.

    Args:
        batches: in numpy arrays, each in memory of its own: a buffer that is written again may still be being sent.
        place: where to, for example `functools.partial(from_hosts, mesh=mesh)`.

    Example:
        >>> import numpy as np
        >>> [int(batch.sum()) for batch in prefetch(np.full(3, i) for i in range(4))]
        [0, 3, 6, 9]
    """
    queue = collections.deque()
    for batch in batches:
        queue.append(place(batch))
        if len(queue) > AHEAD:
            yield queue.popleft()
    while queue:
        yield queue.popleft()


def host_batches(dataset: Any, steps: int, size: int) -> Iterator[PyTree]:
    """The rows of stacked batches that are this process's own: leaves `[steps, size / processes, ...]`, for `from_hosts`.

    Process p of n has rows `p size / n, ..., (p + 1) size / n - 1` of each batch and reads no others. One process has them
    all, so that any number of processes see the same batches in the same order.

    Args:
        dataset: a `grain.MapDataset` of examples, shuffled and repeated as you like, the same in every process.

    Raises:
        ValueError: if the processes do not divide the batch.
    """
    whole("host_batches: steps", steps)
    whole("host_batches: size", size)
    processes = jax.process_count()
    if size % processes:
        raise ValueError(f"host_batches: size={size} must be a multiple of the {processes} processes")
    try:
        import grain  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("host_batches needs grain: pip install 'metapt[distributed]'") from error
    # Consecutive groups of rows, of which this process takes its own: a batch is one group from each.
    rows = dataset.batch(size // processes, drop_remainder=True)[jax.process_index() :: processes]
    read_ahead = grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD)  # by default 500 batches
    return iter(rows.batch(steps, drop_remainder=True).to_iter_dataset(read_ahead))
