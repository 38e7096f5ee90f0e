"""1. Arrays in, stacked batches out: readers, splits that cannot overlap, views, planted tasks, random batches."""

from metapt.data.batches import draw
from metapt.data.cifar import cifar10
from metapt.data.digits import Labelled, digits
from metapt.data.ecg import (
    LEADS,
    SUPERCLASSES,
    Ecg,
    Scale,
    finetune_split,
    fold_split,
    global_scale,
    normalise,
    ptbxl_subset,
    twelve_leads,
)
from metapt.data.ecg_generator import Beat, ecgsyn, generated_ecg, tachogram
from metapt.data.episodes import Episodes, draw_episodes, draw_sinusoids
from metapt.data.graphs import ABSENT, Graph, GraphSet, draw_graphs, in_batches, misplaced_centres, slots, undirected
from metapt.data.hu_bio import HuBio, hu_bio, species_split
from metapt.data.image_views import (
    blur,
    color_jitter,
    crop,
    flip,
    gray,
    of_another,
    random_blur,
    random_crop,
    simclr_views,
    sometimes,
)
from metapt.data.mnist import TrainTest, mnist
from metapt.data.molecules import Molecules, molecule_hash, molecules, one_hot, scaffold_split
from metapt.data.omniglot import Omniglot, omniglot
from metapt.data.ptbxl import download_ptbxl, ptbxl, superclasses
from metapt.data.scattering import scattering
from metapt.data.sharding import from_hosts, shard_batches
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
from metapt.data.streams import host_batches, prefetch
from metapt.data.tasks import plant_tasks
from metapt.data.tissues import Tissues, ppi_tissues
from metapt.data.views import View, learned_view, random_rotation, rotate

__all__ = [
    "ABSENT",
    "LEADS",
    "SUPERCLASSES",
    "Beat",
    "Ecg",
    "Episodes",
    "Graph",
    "GraphSet",
    "HuBio",
    "Labelled",
    "Molecules",
    "Omniglot",
    "Scale",
    "Tissues",
    "TrainTest",
    "View",
    "balanced",
    "blur",
    "by_input",
    "cifar10",
    "color_jitter",
    "crop",
    "crop_mask",
    "digits",
    "displacement",
    "download_ptbxl",
    "draw",
    "draw_episodes",
    "draw_graphs",
    "draw_sinusoids",
    "ecgsyn",
    "finetune_split",
    "flip",
    "fold_split",
    "from_hosts",
    "generated_ecg",
    "global_scale",
    "gray",
    "host_batches",
    "hu_bio",
    "in_batches",
    "in_turn",
    "integrate",
    "lead_dropout",
    "learned_view",
    "misplaced_centres",
    "mnist",
    "molecule_hash",
    "molecules",
    "normalise",
    "of_another",
    "omniglot",
    "one_hot",
    "plant_tasks",
    "ppi_tissues",
    "prefetch",
    "ptbxl",
    "ptbxl_subset",
    "random_amplitude",
    "random_blur",
    "random_crop",
    "random_mask",
    "random_noise",
    "random_rotation",
    "resample",
    "rotate",
    "scaffold_split",
    "scaled_noise",
    "scattering",
    "shard_batches",
    "simclr_views",
    "slots",
    "sometimes",
    "species_split",
    "split",
    "superclasses",
    "tachogram",
    "time_warp",
    "twelve_leads",
    "undirected",
]
