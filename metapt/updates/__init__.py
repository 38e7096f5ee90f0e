"""7. How the meta-parameters move: by their hypergradient, by a balance, by an estimate, by what a search suggests."""

from metapt.updates.balance import BalanceState, Progress, by_balance, progress
from metapt.updates.cosine import cosine_weights
from metapt.updates.gradient import by_gradient
from metapt.updates.label_shift import LabelShift, by_confusion, label_shift, no_shift_p_value
from metapt.updates.search import Suggest, random_search, tpe

__all__ = [
    "BalanceState",
    "LabelShift",
    "Progress",
    "Suggest",
    "by_balance",
    "by_confusion",
    "by_gradient",
    "cosine_weights",
    "label_shift",
    "no_shift_p_value",
    "progress",
    "random_search",
    "tpe",
]
