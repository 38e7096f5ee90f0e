"""Weights of pre-training tasks from their single gradients: the cheap heuristic that learned weights must beat."""

from collections.abc import Callable

from jax import Array

from metapt.recipes.method import Method, Pieces
from metapt.types import Batches, StageState
from metapt.updates import cosine_weights

METHOD = Method(
    name="gradient_cosine",
    summary="task weights from the cosine between the gradients of single tasks and of fine-tuning",
    citation="Du, Czarnecki, Jayakumar, Farajtabar, Pascanu, Lakshminarayanan. "
    "Adapting Auxiliary Losses Using Gradient Similarity. arXiv:1812.02224, 2018",
    slots=("update: weights from single gradients",),
)


def gradient_cosine(pieces: Pieces, tasks: int) -> Callable[[StageState, Batches, Array], Array]:
    """`weigh(pretrained, batches, key)`: weights `[tasks]` for the pre-training of `pieces`, from one outer step's batches.

    Args:
        pieces: of `task_weights`.
    """
    weigh = cosine_weights(pieces.pretrain.objective, tasks)

    def at(pretrained: StageState, batches: Batches, key: Array) -> Array:
        head = pieces.start_finetune(key)
        downstream = lambda params: pieces.algorithm.downstream(
            pretrained._replace(params=params), head, None, batches, key
        )
        return weigh(pretrained, downstream, batches.pretrain, key)

    return at
