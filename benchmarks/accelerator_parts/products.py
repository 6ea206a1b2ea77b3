"""What a program multiplies, counted in its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Products:
    """The matrix products and convolutions of a program.

    Attributes:
      flops: 2 for each multiply-add; nothing else is counted.
      count: how many products there are.
      longest: terms of the longest sum in any of them.
    """

    flops: float = 0.0
    count: int = 0
    longest: int = 0

    def __add__(self, other: Products) -> Products:
        return Products(self.flops + other.flops, self.count + other.count, max(self.longest, other.longest))

    def __mul__(self, times: int) -> Products:
        return Products(self.flops * times, self.count * times, self.longest if times else 0)


def products(call: Callable[..., Any], *arguments: Any) -> Products:
    """Returns the products of `call(*arguments)`; the arguments may be `jax.ShapeDtypeStruct`s.

    Loops of known length count as often as they run; of branches the dearest counts. Kernels from outside XLA (cuDNN's
    attention) do not show their products: count such a program in float32, where none of them is taken.
    """
    return _of(jax.make_jaxpr(call)(*arguments).jaxpr)


def _of(jaxpr: Any) -> Products:
    total = Products()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [_of(part) for part in _inner(equation.params)]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            terms = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += Products(2.0 * equation.outvars[0].aval.size * terms, 1, terms)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            terms = kernel.size // kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += Products(2.0 * equation.outvars[0].aval.size * terms, 1, terms)
        elif name == "cond":
            total += max(inner, key=lambda part: part.flops, default=Products())
        elif name == "scan":
            total += sum(inner, Products()) * equation.params["length"]
        else:
            total += sum(inner, Products())
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs that an equation holds."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)  # a closed one holds the jaxpr
            if hasattr(item, "eqns"):
                yield item
