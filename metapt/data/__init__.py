"""1. Arrays in, stacked batches out: readers, splits that cannot overlap, planted tasks, random batches."""

from metapt.data.batches import draw
from metapt.data.digits import Labelled, digits
from metapt.data.splits import split
from metapt.data.tasks import plant_tasks

__all__ = ["Labelled", "digits", "draw", "plant_tasks", "split"]
