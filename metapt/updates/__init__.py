"""7. How the meta-parameters move."""

from metapt.updates.cosine import cosine_weights
from metapt.updates.gradient import by_gradient
from metapt.updates.search import Suggest, random_search, tpe

__all__ = ["Suggest", "by_gradient", "cosine_weights", "random_search", "tpe"]
