"""What passes from pre-training to fine-tuning. All take `(pretrained, finetune, meta)` and give `(start, context)`.

Those with an encoder expect parameters that are mappings with an entry `"encoder"`; anything else is one function of
your own.
"""

from collections.abc import Mapping

from metapt.types import PyTree, StageState, Transfer


def transfer_encoder(pretrained: StageState, finetune: StageState, meta: PyTree) -> tuple[StageState, PyTree]:
    """Full transfer: fine-tuning starts from the pre-trained encoder and its own head, and trains both.

    Example:
        >>> pretrained = StageState({"encoder": 1.0, "head": 2.0}, None, None)
        >>> start, context = transfer_encoder(pretrained, StageState({"encoder": 0.0, "head": 3.0}, None, None), None)
        >>> start.params
        {'encoder': 1.0, 'head': 3.0}
    """
    params = {**finetune.params, "encoder": _encoder("transfer_encoder", pretrained)}
    return StageState(params, finetune.opt_state, finetune.extra), None


def transfer_all(pretrained: StageState, finetune: StageState, meta: PyTree) -> tuple[StageState, PyTree]:
    """Fine-tuning goes on with the whole pre-trained network, head and all: the same classes, other data.

    Example:
        >>> start, context = transfer_all(StageState(2.0, None, None), StageState(3.0, None, None), None)
        >>> start.params
        2.0
    """
    return StageState(pretrained.params, finetune.opt_state, finetune.extra), None


def transfer_features(pretrained: StageState, finetune: StageState, meta: PyTree) -> tuple[StageState, PyTree]:
    """Linear evaluation: fine-tuning trains its own parameters only and sees the pre-trained encoder as its context.

    Example:
        >>> pretrained = StageState({"encoder": 1.0, "head": 2.0}, None, None)
        >>> start, context = transfer_features(pretrained, StageState(3.0, None, None), None)
        >>> start.params, context
        (3.0, 1.0)
    """
    return finetune, _encoder("transfer_features", pretrained)


def transfer_meta(pretrained: StageState, finetune: StageState, meta: PyTree) -> tuple[StageState, PyTree]:
    """Nothing is pre-trained: fine-tuning starts where it always does and sees the meta-parameters as its context.

    Example:
        >>> transfer_meta(StageState(1.0, None, None), StageState(0.0, None, None), 3.0)
        (StageState(params=0.0, opt_state=None, extra=None), 3.0)
    """
    return finetune, meta


def with_extra(transfer: Transfer) -> Transfer:
    """And what pre-training carries beside its parameters (running averages) goes with them.

    Where fine-tuning goes on from its last state (`warm_start`), its first one needs an `extra` of that form too.

    Example:
        >>> pretrained, finetune = StageState({"encoder": 1.0}, None, "averages"), StageState({}, None, None)
        >>> start, context = with_extra(transfer_features)(pretrained, finetune, None)
        >>> start.extra, context
        ('averages', 1.0)
    """

    def transferred(pretrained: StageState, finetune: StageState, meta: PyTree) -> tuple[StageState, PyTree]:
        start, context = transfer(pretrained, finetune, meta)
        return start._replace(extra=pretrained.extra), context

    return transferred


def with_start(transfer: Transfer) -> Transfer:
    """And the parameters that fine-tuning starts from are its context, in place of what `transfer` gave.

    For objectives that measure how far it went (`objectives.half_square_from_start`).

    Example:
        >>> pretrained, finetune = StageState(2.0, None, None), StageState(0.0, None, None)
        >>> start, context = with_start(transfer_all)(pretrained, finetune, None)
        >>> start.params, context
        (2.0, 2.0)
    """

    def transferred(pretrained: StageState, finetune: StageState, meta: PyTree) -> tuple[StageState, PyTree]:
        start, _ = transfer(pretrained, finetune, meta)
        return start, start.params

    return transferred


def _encoder(name: str, pretrained: StageState) -> PyTree:
    params = pretrained.params
    if not isinstance(params, Mapping) or "encoder" not in params:
        found = (
            f"a mapping with {', '.join(map(str, params))}" if isinstance(params, Mapping) else type(params).__name__
        )
        raise ValueError(
            f'{name}: the pre-trained parameters must be a mapping with an entry "encoder", found {found}; build them with '
            "models.with_head, or transfer by a function of your own"
        )
    return params["encoder"]
