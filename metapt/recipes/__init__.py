"""Published methods: each composes pieces of the other folders and adds nothing of its own."""

from metapt.recipes import task_weights
from metapt.recipes.method import Method

METHODS: tuple[Method, ...] = (task_weights.METHOD,)

__all__ = ["METHODS", "Method", "task_weights"]
