"""7. How the meta-parameters move."""

from metapt.updates.gradient import by_gradient

__all__ = ["by_gradient"]
