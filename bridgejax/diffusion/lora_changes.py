"""Changes of weights as LoRA files and their kin hold them: their kinds, and whether one fits a weight's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np


class Delta(NamedTuple):
    """One low-rank change of one weight, in PyTorch's layout."""

    down: np.ndarray  # [rank, in] or [rank, in, h, w]
    up: np.ndarray  # [out, rank] or [out, rank, 1, 1]
    factor: float  # scale · alpha / rank

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Returns the change as float32 of the weight's shape."""
        rank = self.down.shape[0]
        product = self.up.astype(np.float32).reshape(-1, rank) @ self.down.astype(np.float32).reshape(rank, -1)
        return np.float32(self.factor) * product.reshape(weight.shape)


class Hadamard(NamedTuple):
    """A LoHa change: the elementwise product of two low-rank ones (Yeh et al. 2023, arXiv:2309.14859, section 3)."""

    w1: tuple[np.ndarray, ...]  # a, b and, for a convolution in Tucker form, the core
    w2: tuple[np.ndarray, ...]
    factor: float

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Returns the change as float32 of the weight's shape."""
        product = _product(*self.w1).reshape(weight.shape) * _product(*self.w2).reshape(weight.shape)
        return np.float32(self.factor) * product


class Kronecker(NamedTuple):
    """A LoKr change: the Kronecker product of two matrices, each whole or low-rank (the same paper)."""

    w1: tuple[np.ndarray, ...]
    w2: tuple[np.ndarray, ...]
    factor: float

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Returns the change as float32 of the weight's shape."""
        first, second = _product(*self.w1), _product(*self.w2)
        product = np.kron(first.reshape(*first.shape, *(1,) * (second.ndim - 2)), second)
        return np.float32(self.factor) * product.reshape(weight.shape)


class Whole(NamedTuple):
    """A change of a weight, a bias or a norm as it is."""

    change: np.ndarray
    factor: float

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Returns the change as float32 of the parameter's shape."""
        return np.float32(self.factor) * self.change.astype(np.float32).reshape(weight.shape)


class Decomposed(NamedTuple):
    """A DoRA change: the vectors of a changed weight get learned lengths (Liu et al. 2024, arXiv:2402.09353, formula 5).

    The scale of a file multiplies the inner change alone, as in PEFT: at 0 the lengths stay.
    """

    change: Delta | Hadamard | Kronecker | Whole
    lengths: np.ndarray  # [out, 1, …] or [1, in, 1, …], of the weight's number of dimensions

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Returns the change as float32 of the weight's shape; the weight is the generator's own."""
        own = weight.astype(np.float32)
        changed = own + self.change.matrix(own)
        others = tuple(axis for axis, size in enumerate(self.lengths.shape) if size == 1)
        lengths = np.sqrt((changed * changed).sum(others, keepdims=True))
        return changed * (self.lengths.astype(np.float32) / np.maximum(lengths, np.finfo(np.float32).tiny)) - own


def _product(a: np.ndarray, b: np.ndarray | None = None, core: np.ndarray | None = None) -> np.ndarray:
    """Returns a whole matrix, a · b, or the kernel that the core [r, r, h, w] makes of a [r, out] and b [r, in]; float32."""
    a = a.astype(np.float32)
    if b is None:
        return a
    b = b.astype(np.float32)
    return a @ b if core is None else np.einsum("rshw,ro,si->oihw", core.astype(np.float32), a, b)


Change: TypeAlias = Delta | Hadamard | Kronecker | Whole | Decomposed


def other_change(
    kind: str, found: Mapping[str, np.ndarray], scale: float, factor: Callable[[int], float]
) -> Hadamard | Kronecker | Whole | None:
    """Returns a change that is not the plain product of two halves; None if its tensors are not complete."""
    if kind in ("whole", "bias"):
        return Whole(found[kind], scale)
    if kind == "lora":  # LoCon in Tucker form: 1×1, kernel, 1×1
        down, up, mid = (found[slot] for slot in ("down", "up", "mid"))
        if down.ndim < 2 or up.ndim < 2 or down.size != np.prod(down.shape[:2]) or up.size != np.prod(up.shape[:2]):
            return None
        halves = (up.reshape(up.shape[:2]).T, down.reshape(down.shape[:2]), mid)
        return Kronecker((np.ones((1, 1), np.float32),), halves, factor(down.shape[0]))
    pairs = []
    for number in "12":
        whole, a, b, core = (
            found.get(f"{kind}_{slot}") for slot in (f"w{number}", f"w{number}_a", f"w{number}_b", f"t{number}")
        )
        if (whole is None) == (a is None) or (a is None) != (b is None) or (core is not None and a is None):
            return None
        pairs.append(tuple(array for array in (whole, a, b, core) if array is not None))
    ranks = [pair[1].shape[0] for pair in pairs if len(pair) > 1 and pair[1].ndim]
    if kind == "hada":
        return Hadamard(pairs[0], pairs[1], factor(ranks[0])) if ranks and (len(pairs[0]) == len(pairs[1])) else None
    # Two whole matrices have no rank: LyCORIS writes alpha as the rank then.
    return Kronecker(pairs[0], pairs[1], factor(ranks[-1]) if ranks else scale)


def dora_lengths(array: np.ndarray, shape: tuple[int, ...], peft: bool) -> np.ndarray | None:
    """Returns a DoRA's lengths as they spread over a weight; None if they fit it neither by outputs nor by inputs.

    Args:
      array: PEFT's [out] or [1, out, 1, 1], always one for each output; LyCORIS' [out, 1, …], or [1, in, …] of its versions
        before 3, or [out] as diffusers converts PEFT's.
      shape: of the weight.
      peft: which of the two it is.
    """
    if array.ndim == 0 or len(shape) < 2:
        return None
    out, into, *kernel = shape
    if array.size == out == (array.shape[1] if peft and array.ndim == 4 else array.shape[0]):
        return array.reshape(out, 1, *(1 for _ in kernel))
    if not peft and array.ndim > 1 and array.size == into == array.shape[1]:
        return array.reshape(1, into, *(1 for _ in kernel))
    return None


def fits(change: Hadamard | Kronecker | Whole, shape: tuple[int, ...]) -> bool:
    """Returns whether a change can be made into one of `shape`, by the shapes of its matrices."""
    if isinstance(change, Whole):
        return change.change.ndim >= 1 and _squeezed(change.change.shape) == _squeezed(shape)
    first, second = _product_shape(change.w1), _product_shape(change.w2)
    if not first or not second:
        return False
    flat = (shape[0], int(np.prod(shape[1:], dtype=int)))
    if isinstance(change, Hadamard):
        return all((sizes[0], int(np.prod(sizes[1:], dtype=int))) == flat for sizes in (first, second))
    if len(first) != 2 or len(second) < 2:
        return False
    product = (first[0] * second[0], first[1] * second[1], *second[2:])
    return product == shape or (len(second) == 2 and product == flat)


def _product_shape(pair: tuple[np.ndarray, ...]) -> tuple[int, ...] | None:
    """Returns the shape of `_product`, or None if its matrices do not go together."""
    if len(pair) == 1:
        return pair[0].shape
    a, b = pair[:2]
    if a.ndim != 2 or b.ndim != 2:
        return None
    if len(pair) == 2:
        return (a.shape[0], b.shape[1]) if a.shape[1] == b.shape[0] else None
    core = pair[2]
    return (a.shape[1], b.shape[1], *core.shape[2:]) if core.ndim == 4 and core.shape[:2] == (a.shape[0], b.shape[0]) else None


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a shape without the 1×1 of a convolution."""
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
