"""What all PyTorch implementations share: the operations, the arrays, plain pre-training, and how a run looks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cases import Arrays, Case, Ops, Run


def _segment_sum(values: Tensor, owner: Tensor, owners: int) -> Tensor:
    return values.new_zeros(int(owners), values.shape[1]).index_add(0, owner, values)


def _nt_xent(z: Tensor) -> Tensor:
    z = z * torch.rsqrt((z**2).sum(1, keepdim=True).clamp_min(1e-12))
    similarity = z @ z.T / 0.5
    others = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    partner = (z * z.roll(len(z) // 2, 0)).sum(1) / 0.5
    return (others.logsumexp(1) - partner).mean()


def _warp(x: Tensor, displacement: Tensor) -> Tensor:
    last = x.shape[1] - 1
    at = (torch.arange(last + 1) + displacement).clamp(0, last)
    left = at.detach().long().clamp(max=last - 1)
    read = lambda index: x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))
    share = (at - left)[:, :, None]
    return (1 - share) * read(left) + share * read(left + 1)


OPS = Ops(
    relu=F.relu,
    sigmoid=torch.sigmoid,
    bce=lambda logits, y: F.binary_cross_entropy_with_logits(logits, y, reduction="none"),
    nt_xent=_nt_xent,
    concatenate=torch.cat,
    segment_sum=_segment_sum,
    channels=lambda x: x.transpose(1, 2),
    convolve=lambda x, kernel, stride, padding: F.conv1d(x, kernel, None, stride, padding),
    normalise=lambda x, scale, offset: F.batch_norm(x, None, None, scale, offset, training=True),
    pool=lambda x: x.mean(-1),
    warp=_warp,
)


def loads(case: Case, float64: bool) -> list[Arrays]:
    """The arrays of every seed as tensors; kernels of convolutions as PyTorch wants them, `[O, I, K]`."""
    torch.set_num_threads(1)
    kind = torch.float64 if float64 else torch.float32
    torch.set_default_dtype(kind)  # TorchOpt's bias correction takes it from here

    def tensor(x: np.ndarray, weight: bool) -> Tensor:
        x = np.ascontiguousarray(x.transpose(2, 1, 0)) if weight and x.ndim == 3 else np.asarray(x)
        return torch.tensor(x, dtype=kind if np.issubdtype(x.dtype, np.floating) else torch.int64)

    def tree(part: dict, weight: bool) -> dict:
        return {k: tree(v, weight) if isinstance(v, dict) else tensor(v, weight) for k, v in part.items()}

    found = [case.arrays(seed) for seed in range(case.seeds)]
    return [Arrays(*(tree(part, i < 3) for i, part in enumerate(arrays))) for arrays in found]


def as_numpy(phi: dict) -> dict[str, np.ndarray]:
    """In the layout of `benchmarks.cases`."""
    return {name: (x.permute(2, 1, 0) if x.ndim == 3 else x).numpy() for name, x in phi.items()}


def row(batches: dict, step: int) -> dict:
    """The batch of one step."""
    return {name: value[step] for name, value in batches.items()}


def leaves(tree: dict) -> list[Tensor]:
    """Tensors of a nested dictionary, in its order."""
    return [x for value in tree.values() for x in (leaves(value) if isinstance(value, dict) else [value])]


def like(tree: dict, tensors: Any) -> dict:
    """The nested dictionary with other tensors in it."""
    found = iter(tensors)
    build = lambda tree: {k: build(v) if isinstance(v, dict) else next(found) for k, v in tree.items()}
    return build(tree)


def tree_map(f: Callable, *trees: dict) -> dict:
    """`f` of the tensors in the same place."""
    first = trees[0]
    return {
        k: tree_map(f, *(t[k] for t in trees)) if isinstance(v, dict) else f(*(t[k] for t in trees))
        for k, v in first.items()
    }


def adam(lr: float, eps: float, params: dict, moments: tuple[dict, dict], count: Tensor | float, gradient: dict):
    """A step of Adam out of place, number `count`: the parameters and the moments."""
    first = tree_map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
    second = tree_map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], gradient)
    one, two = 1 - 0.9**count, 1 - 0.999**count
    move = lambda x, m, v: x - lr * (m / one) / ((v / two).sqrt() + eps)
    return tree_map(move, params, first, second), (first, second)


def trainable(tree: dict) -> dict:
    """Copies that gradients are taken of."""
    return like(tree, [x.clone().requires_grad_() for x in leaves(tree)])


def finetuned(case: Case, arrays: Arrays, encoder: dict) -> dict:
    """The parameters that fine-tuning trains, at its start."""
    return {"head": arrays.head} if case.head_only else {"encoder": encoder, "head": arrays.head}


def finetune_loss(case: Case, encoder: dict, trained: dict, batch: dict) -> Tensor:
    """At the trained parameters; the encoder is the pre-trained one unless it is trained too."""
    return case.finetune_loss(OPS, trained.get("encoder", encoder), trained["head"], batch)


def moments(case: Case, params: dict) -> tuple[dict, dict]:
    """Adam's moments as after `case.warm_count` steps."""
    return tree_map(torch.zeros_like, params), tree_map(lambda x: torch.full_like(x, case.warm_second), params)


def warm(case: Case, optimizer: torch.optim.Optimizer, params: list[Tensor]) -> None:
    """Adam's state as after `case.warm_count` steps."""
    for x in params:
        optimizer.state[x] = {
            "step": torch.tensor(float(case.warm_count)),
            "exp_avg": torch.zeros_like(x),
            "exp_avg_sq": torch.full_like(x, case.warm_second),
        }


class Training:
    """A seed's parameters and meta-parameters, each with PyTorch's Adam."""

    def __init__(self, case: Case, arrays: Arrays):
        self.case, self.arrays = case, arrays
        self.params, self.phi = trainable(arrays.params), trainable(arrays.phi)
        self.adam = torch.optim.Adam(leaves(self.params), lr=case.pretrain_lr)
        self.meta_adam = torch.optim.Adam(leaves(self.phi), lr=case.meta_lr)
        self.found: list[Tensor] = []  # the last hypergradient

    def pretrain(self) -> None:
        """P steps."""
        phi = {name: x.detach() for name, x in self.phi.items()}
        for step in range(self.case.P):
            loss = self.case.pretrain_loss(OPS, self.params, phi, row(self.arrays.pretrain, step))
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()

    @property
    def last(self) -> dict:
        """The last pre-training batch."""
        return row(self.arrays.pretrain, self.case.P - 1)

    def move(self, hypergradient: Any) -> None:
        """One step of Adam on phi."""
        self.found = [gradient.detach() for gradient in hypergradient]
        for x, gradient in zip(leaves(self.phi), self.found, strict=True):
            x.grad = gradient
        self.meta_adam.step()


def implicit(training: Training, v: list[Tensor]) -> list[Tensor]:
    """- d/dphi <dL/dtheta, p>, with p the Neumann series of v: products by a second backward pass, as in the paper's code."""
    case, params = training.case, leaves(training.params)
    loss = case.pretrain_loss(OPS, training.params, training.phi, training.last)
    gradient = torch.autograd.grad(loss, params, create_graph=True)
    term = total = v
    for _ in range(case.terms):
        product = torch.autograd.grad(gradient, params, term, retain_graph=True)
        term = [t - case.pretrain_lr * p for t, p in zip(term, product, strict=True)]
        total = [a + b for a, b in zip(total, term, strict=True)]
    p = [-case.pretrain_lr * t for t in total]
    return list(torch.autograd.grad(gradient, leaves(training.phi), p))


def encoder_gradient(training: Training, loss: Tensor, encoder: list[Tensor]) -> list[Tensor]:
    """The gradient of the fine-tuned validation loss, with zeros for the head of pre-training."""
    return [*torch.autograd.grad(loss, encoder), *map(torch.zeros_like, leaves(training.params["head"]))]


def run(case: Case, float64: bool, start: Callable[[Case, Arrays], tuple[Callable[[], None], Training]]) -> Run:
    """`start(case, arrays) -> (advance, training)` for every seed, one after the other."""
    seeds = [start(case, arrays) for arrays in loads(case, float64)]

    def advance() -> None:
        for one, _ in seeds:
            one()

    def hypergradient() -> list[dict[str, np.ndarray]]:
        return [as_numpy(dict(zip(training.phi, training.found, strict=True))) for _, training in seeds]

    return Run(advance, hypergradient)
