"""How much a pickle holds once it is unfolded, without loading it."""

from __future__ import annotations

import pickletools
from typing import IO, Any


class UnreadablePickle(ValueError):
    """Bytes that are not a complete pickle."""


def unfolded_size(file: IO[bytes]) -> int:
    """Number of values in a pickle, each counted as often as it is referred to.

    A few bytes can hold 2**60 of them, by tuples of the tuple before, and what looks at all of them, such as
    a dict that hashes its keys, never ends. Nothing is made and nothing is run here.

    Parameters
    ----------
    file : binary file
        Read from where it stands to the end of the first pickle.

    Raises
    ------
    UnreadablePickle
        If there is no whole pickle.
    """
    stack, marks = [0], list[int]()
    memo: dict[object, int] = {}
    largest = 0
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "MARK":
                marks.append(len(stack))
            elif opcode.name in _PUTS:
                memo[len(memo) if argument is None else argument] = stack[-1]
            elif opcode.name in _GETS:
                stack.append(memo[argument])
            else:
                size = _popped(opcode, stack, marks)
                stack += [size + 1] * len(opcode.stack_after)
            largest = max(largest, stack[-1])
    except (ValueError, IndexError, KeyError, TypeError, UnicodeError, EOFError) as error:
        raise UnreadablePickle("is no whole pickle") from error
    return largest


_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GETS = ("GET", "BINGET", "LONG_BINGET")


def _popped(opcode: Any, stack: list[int], marks: list[int]) -> int:
    """Remove from the stack what an opcode takes, and return its size."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        start = marks.pop() - before.index(pickletools.markobject)
    else:
        start = len(stack) - len(before)
    if start < 1:
        raise IndexError("nothing is left on the stack")
    size = sum(stack[start:])
    del stack[start:]
    return size
