"""6. Rules: a `Stage` becomes a `fit` whose derivative is stated. Fits compose as ordinary functions."""

from metapt.hypergrad.by_leaf import by_leaf, cut_paths
from metapt.hypergrad.curvature import linearized
from metapt.hypergrad.differences import central_differences
from metapt.hypergrad.evolution import Particles, PersistentEvolution, evolution, persistent_evolution
from metapt.hypergrad.finite_difference import finite_difference
from metapt.hypergrad.fixed_point import fixed_point
from metapt.hypergrad.forward import forward
from metapt.hypergrad.implicit import implicit
from metapt.hypergrad.plan import UnrollPlan, plan_unroll
from metapt.hypergrad.proximal import proximal
from metapt.hypergrad.reversible import reversible
from metapt.hypergrad.shifting import ShiftingInfo, Trajectories, TrajectoryShifting, trajectory_shifting
from metapt.hypergrad.unroll import detached, first_order, truncate, unroll, windowed

__all__ = [
    "Particles",
    "PersistentEvolution",
    "ShiftingInfo",
    "Trajectories",
    "TrajectoryShifting",
    "UnrollPlan",
    "by_leaf",
    "central_differences",
    "cut_paths",
    "detached",
    "evolution",
    "finite_difference",
    "first_order",
    "fixed_point",
    "forward",
    "implicit",
    "linearized",
    "persistent_evolution",
    "plan_unroll",
    "proximal",
    "reversible",
    "trajectory_shifting",
    "truncate",
    "unroll",
    "windowed",
]
