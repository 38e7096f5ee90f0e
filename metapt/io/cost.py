"""Gradient evaluations of one outer step, to compare methods at equal compute.

A gradient is 1. A Hessian product, a mixed product and one step of a backward pass are 2 each (forward over reverse costs
about two gradients); recomputing a step costs 1 again. Gradients of pre-training and of fine-tuning count alike.
"""

from typing import NamedTuple

from metapt.solvers.spectrum import POWER_ITERATIONS


class Cost(NamedTuple):
    """An outer step of `pretrain_steps` (P) and `finetune_steps` (K), by the way it is differentiated.

    Example:
        >>> cost = Cost(pretrain_steps=5, finetune_steps=1)
        >>> cost.forward, cost.implicit(terms=20), cost.unrolled, cost.differences(size=1)
        (7, 74, 25, 21)
    """

    pretrain_steps: int
    finetune_steps: int

    @property
    def forward(self) -> int:
        """Pre-train, fine-tune, one validation loss, phi at rest."""
        return self.pretrain_steps + self.finetune_steps + 1

    @property
    def unrolled(self) -> int:
        """And a backward pass through every step."""
        return self.forward + 3 * (self.pretrain_steps + self.finetune_steps)

    def implicit(self, terms: int, power: int = POWER_ITERATIONS) -> int:
        """And the backward pass of fine-tuning, `power + terms + 1` products (one for the residual), the mixed product."""
        return self.forward + 3 * self.finetune_steps + 2 * (power + terms + 1) + 2

    def differences(self, size: int) -> int:
        """`2 size + 1` outer steps for one hypergradient of `size` numbers."""
        return (2 * size + 1) * self.forward
