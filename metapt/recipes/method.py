"""Where a recipe comes from, as data: `metapt list` and the README's table are made from it."""

from typing import NamedTuple


class Method(NamedTuple):
    """A published method."""

    name: str
    summary: str
    citation: str
    slots: tuple[str, ...]  # the arrows of the flow that the method fills
