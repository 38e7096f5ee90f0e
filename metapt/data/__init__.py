"""1. Arrays in, stacked batches out: readers, splits that cannot overlap, views, planted tasks, random batches."""

from metapt.data.batches import draw
from metapt.data.digits import Labelled, digits
from metapt.data.graphs import ABSENT, Graph, GraphSet, draw_graphs, slots, undirected
from metapt.data.hu_bio import HuBio, hu_bio, species_split
from metapt.data.mnist import TrainTest, mnist
from metapt.data.molecules import Molecules, molecules, one_hot, scaffold_split
from metapt.data.signal_views import (
    by_input,
    crop_mask,
    displacement,
    in_turn,
    integrate,
    lead_dropout,
    random_amplitude,
    random_mask,
    random_noise,
    resample,
    scaled_noise,
    time_warp,
)
from metapt.data.splits import balanced, split
from metapt.data.tasks import plant_tasks
from metapt.data.tissues import Tissues, ppi_tissues
from metapt.data.views import View, random_rotation, rotate

__all__ = [
    "ABSENT",
    "Graph",
    "GraphSet",
    "HuBio",
    "Labelled",
    "Molecules",
    "Tissues",
    "TrainTest",
    "View",
    "balanced",
    "by_input",
    "crop_mask",
    "digits",
    "displacement",
    "draw",
    "draw_graphs",
    "hu_bio",
    "in_turn",
    "integrate",
    "lead_dropout",
    "mnist",
    "molecules",
    "one_hot",
    "plant_tasks",
    "ppi_tissues",
    "random_amplitude",
    "random_mask",
    "random_noise",
    "random_rotation",
    "resample",
    "rotate",
    "scaffold_split",
    "scaled_noise",
    "slots",
    "species_split",
    "split",
    "time_warp",
    "undirected",
]
