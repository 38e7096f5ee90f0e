"""1. Arrays in, stacked batches out: readers, splits that cannot overlap, views, planted tasks, random batches."""

from metapt.data.batches import draw
from metapt.data.digits import Labelled, digits
from metapt.data.mnist import TrainTest, mnist
from metapt.data.splits import balanced, split
from metapt.data.tasks import plant_tasks
from metapt.data.views import View, random_rotation, rotate

__all__ = [
    "Labelled",
    "TrainTest",
    "View",
    "balanced",
    "digits",
    "draw",
    "mnist",
    "plant_tasks",
    "random_rotation",
    "rotate",
    "split",
]
