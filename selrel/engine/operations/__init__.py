"""The engine's operations: one file a kind, with its arithmetic and its translation from torch's operators.

Nothing here knows an explanation method; the methods in `selrel.explain` build their rules from these. A
file's `TRANSLATIONS` maps operators of an exported graph to functions that make the operation from a call;
its `PARTS` does so for one of the tensors that an operator gives. Adding an operation is adding a file:
nothing else lists them.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, fx


class UnsupportedModel(ValueError):
    """The model has an operation that no explanation rule covers, or can't be traced."""


class Operation(ABC):
    """The arithmetic of one node of a graph; the batch is the first axis of every tensor."""

    only_moves: ClassVar[bool] = False
    """Whether the output holds only zeros and entries of the inputs, at most scaled and shifted by channel.
    """

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output."""

    @abstractmethod
    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the gradient with respect to each input.

        Parameters
        ----------
        gradient
            With respect to the output; it may be overwritten.
        inputs
            Those of the forward pass.
        rounding
            For each input, the difference up to which two of its entries count as equal
            (`Forward.rounding`).
        """

    def nonnegative(self, inputs: bool) -> bool:
        """Whether no entry of the output can be negative, given whether none of the inputs' can be."""
        return inputs

    def size(self, inputs: Sequence[Tensor], sizes: Iterator[Tensor], output: Tensor) -> Tensor:
        """Return what the roundings in the output are relative to, broadcastable to it.

        Parameters
        ----------
        inputs, output
            Those of the forward pass.
        sizes
            What this returned for each input, computed when it is asked for. Where nothing more is known of
            an operation, its output has the largest of them, by clip.
        """
        return torch.stack([largest(size, output.dim()) for size in sizes]).amax(dim=0)


def largest(x: Tensor, rank: int) -> Tensor:
    """Return the largest entry of each clip, with `rank` axes."""
    return x.flatten(1).amax(dim=1).view(-1, *(1,) * (rank - 1))


def transpose_of(
    function: Callable[..., Tensor], gradient: Tensor, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Transpose a linear function of the inputs; their values do not matter, only their shapes."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        shares = torch.autograd.grad(function(*leaves), leaves, gradient)
    # A sum's is one number that stands for many; what is given to a rule may be overwritten.
    return tuple(share.clone() if 0 in share.stride() else share for share in shares)


@dataclass(frozen=True, eq=False)
class Call:
    """One operator call of an exported graph.

    Attributes
    ----------
    node
        The call.
    tensors
        The model's parameters, buffers and constants, by the names of their nodes.
    shape
        The shape of the output that is translated, the batch included.
    part
        Which of its outputs that is.
    """

    node: fx.Node
    tensors: dict[str, Tensor]
    shape: tuple[int, ...]
    part: int = 0

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or name, parameters as tensors."""
        args, kwargs = self.node.args, self.node.kwargs
        value: Any = args[index] if index < len(args) else kwargs.get(name, default)
        if isinstance(value, fx.Node):
            if value.name not in self.tensors:
                raise self.refusal(f"its {name} is computed, not a parameter")
            return self.tensors[value.name]
        return default if value is None else value

    def by_axis(self, index: int, name: str, default: Any, axes: int) -> tuple[int, ...]:
        """Return an argument that is one number for all axes, or one for each, as one for each."""
        given = self.argument(index, name, default) or default
        values = (given,) if isinstance(given, int) else tuple(given)
        return values * axes if len(values) == 1 else values

    def applied(self) -> Callable[[Tensor], Any]:
        """Return the operator as a function of its first argument."""
        target: Any = self.node.target
        args, kwargs = self.node.args[1:], dict(self.node.kwargs)
        return lambda x: target(x, *args, **kwargs)

    @property
    def tensor_arguments(self) -> list[fx.Node]:
        """All tensor arguments in order, with repeats, as in x + x."""
        given = [*self.node.args, *self.node.kwargs.values()]
        flat = [item for entry in given for item in (entry if isinstance(entry, (list, tuple)) else [entry])]
        return [item for item in flat if isinstance(item, fx.Node)]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the first input, the batch included."""
        return tuple(self.node.all_input_nodes[0].meta["val"].shape)

    @property
    def input_rank(self) -> int:
        """The number of axes of the first input, the batch included."""
        return len(self.input_shape)

    @property
    def name(self) -> str:
        """The module that the call stands in, and the operator."""
        modules = [path for path, _ in self.node.meta.get("nn_module_stack", {}).values()]
        where = str(modules[-1]) if modules and modules[-1] else "the model's forward"
        return f"{where} ({_short(self.node.target)})"

    def refusal(self, reason: str) -> UnsupportedModel:
        """Return the error that says why this call can't be translated, and what to use in its place."""
        known = ", ".join(sorted({_short(target) for table in translations() for target in table}))
        return UnsupportedModel(
            f"can't explain {self.name}: {reason}; replace it by operations from this list "
            f"({known}) or leave it out: logits are explained before any softmax"
        )


def _short(target: Any) -> str:
    return str(target).removeprefix("aten.").split(".")[0]


Translations = dict[Any, Callable[[Call], Operation]]


@cache
def translations() -> tuple[Translations, Translations]:
    """Return every file's `TRANSLATIONS` in one table, and every file's `PARTS` in another."""
    files = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    whole, parts = (
        {operator: make for file in files for operator, make in getattr(file, name, {}).items()}
        for name in ("TRANSLATIONS", "PARTS")
    )
    return whole, parts
