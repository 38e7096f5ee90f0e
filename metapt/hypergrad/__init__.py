"""6. Rules: a `Stage` becomes a `fit` whose derivative is stated. Fits compose as ordinary functions."""

from metapt.hypergrad.implicit import implicit
from metapt.hypergrad.unroll import first_order, truncate, unroll

__all__ = ["first_order", "implicit", "truncate", "unroll"]
