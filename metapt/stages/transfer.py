"""What passes from pre-training to fine-tuning. Both take `(pretrained, finetune, meta)` and give `(start, context)`.

They expect parameters that are mappings with an entry `"encoder"`; anything else is one function of your own.
"""

from metapt.types import PyTree, StageState


def transfer_encoder(pretrained: StageState, finetune: StageState, meta: PyTree) -> tuple[StageState, PyTree]:
    """Full transfer: fine-tuning starts from the pre-trained encoder and its own head, and trains both.

    Example:
        >>> pretrained = StageState({"encoder": 1.0, "head": 2.0}, None, None)
        >>> start, context = transfer_encoder(pretrained, StageState({"encoder": 0.0, "head": 3.0}, None, None), None)
        >>> start.params
        {'encoder': 1.0, 'head': 3.0}
    """
    params = {**finetune.params, "encoder": pretrained.params["encoder"]}
    return StageState(params, finetune.opt_state, finetune.extra), None


def transfer_features(pretrained: StageState, finetune: StageState, meta: PyTree) -> tuple[StageState, PyTree]:
    """Linear evaluation: fine-tuning trains its own parameters only and sees the pre-trained encoder as its context."""
    return finetune, pretrained.params["encoder"]
