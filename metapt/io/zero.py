"""Where the derivative of a learned arm is cut, if its hypergradient is exactly zero: nothing is run for that."""

import jax
import jax.numpy as jnp
from jax import Array

from metapt.algorithm import AlgorithmState
from metapt.hypergrad import unroll
from metapt.hypergrad.by_leaf import reached
from metapt.io.experiment import Arm, Step
from metapt.stages import depends
from metapt.types import Batches, SolveInfo


def cut_at(arm: Arm, step: Step, state: AlgorithmState, batches: Batches, key: Array) -> str:
    """Where the way from phi to the validation loss is cut, in a line; for one seed. `step` is the arm's own."""

    def norm(state):
        info = step(state, batches, key)[1]
        return (info if isinstance(info, dict) else info._asdict())["hypergradient_norm"]

    if depends(norm, state):
        return "the way from phi is open but every number on it is zero: a flat loss, dead units, or a saturated weight"
    if arm.compose is None:
        return "its rule sees no way from phi to the validation loss; hypergrad.cut_paths says what a stage's rules can see"
    blank, meta_loss = (SolveInfo.blank(), jax.tree.map(jnp.zeros_like, state.phi)), arm.compose(unroll).meta_loss
    state = state._replace(solution=None)
    moved = lambda params: state._replace(pretrain=state.pretrain._replace(params=params))
    if not reached(lambda params: meta_loss(state.phi, *blank, moved(params), batches, key)[0], state.pretrain.params):
        return (
            "cut after pre-training: the validation loss sees nothing of the pre-trained parameters; look at transfer"
        )
    if not reached(lambda phi: meta_loss(phi, *blank, state, batches, key)[0], state.phi):
        return "cut in pre-training: neither its objective nor its optimizer depends on phi, so no rule sees it"
    return "cut by its rule: a point of rest knows nothing of the start, of extra or of the optimizer; use unroll or forward"
