"""Receipts: a block is done when its receipt is there, and it says what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.layout import Root


class HasReceipts(Protocol):
    """The paths of a data set or of a run."""

    def receipts(self, stage: str, block: int) -> str:
        """Receipt of one block of one stage."""
        ...


class DamagedReceipt(ValueError):
    """A receipt that can't be read as one."""


@dataclass(frozen=True)
class Receipt:
    """What one stage wrote for one block.

    Parameters
    ----------
    stage : str
        Name of the stage.
    block : int
        Number of the block, from 0.
    start, stop : int
        The block's clips, half open.
    sha256 : dict of str to str
        Hash of the decoded content (`array_sha256`) or of the file, by array or file name.
    counts : dict of str to int or float
        What the stage counted, for progress and totals.
    """

    stage: str
    block: int
    start: int
    stop: int
    sha256: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int | float] = field(default_factory=dict)


def write_receipt(
    root: Root,
    path: str,
    *,
    stage: str,
    block: int,
    start: int,
    stop: int,
    sha256: Mapping[str, str],
    counts: Mapping[str, int | float] | None = None,
) -> Receipt:
    """Write the receipt of a block, after everything it vouches for is written.

    It holds no time and no host, so that a repeated block gives the same bytes.
    """
    receipt = Receipt(stage, block, start, stop, dict(sha256), dict(counts or {}))
    root.write_json(path, asdict(receipt))
    return receipt


def read_receipt(root: Root, path: str) -> Receipt | None:
    """Read a receipt; None if there is none.

    Raises
    ------
    DamagedReceipt
        If the file is there but is no receipt.
    """
    try:
        content = root.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedReceipt(str(error)) from None
    return _parsed(content, root.join(path))


def pending(root: Root, paths: HasReceipts, stage: str, blocks: Iterable[int]) -> list[int]:
    """Blocks of a stage that have no receipt, in the order given; one listing, whatever their number."""
    directory = paths.receipts(stage, 0).rpartition("/")[0]
    done = set(root.listdir(directory))
    return [block for block in blocks if paths.receipts(stage, block).rpartition("/")[2] not in done]


def read_receipts(root: Root, paths: HasReceipts, stage: str) -> list[Receipt]:
    """All receipts of a stage, in block order.

    Raises
    ------
    DamagedReceipt
        If one of the files is no receipt.
    """
    directory = paths.receipts(stage, 0).rpartition("/")[0]
    names = [name for name in root.listdir(directory) if name.endswith(".json")]
    found = (read_receipt(root, f"{directory}/{name}") for name in names)
    return sorted((receipt for receipt in found if receipt is not None), key=lambda receipt: receipt.block)


def array_sha256(array: NDArray[Any]) -> str:
    """Hash an array's content: dtype, shape and values, whatever its byte order and memory layout.

    Raises
    ------
    TypeError
        If the array is not numeric: other dtypes have no fixed bytes.
    """
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"an array of dtype {array.dtype} has no content hash: give a bool, integer or float array"
        )
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{plain.dtype.str} {tuple(array.shape)} ".encode())
    digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _parsed(content: object, where: str) -> Receipt:
    shape = {"stage": str, "block": int, "start": int, "stop": int, "sha256": dict, "counts": dict}
    sound = isinstance(content, dict) and content.keys() == shape.keys()
    if not sound or not all(isinstance(content[name], kind) for name, kind in shape.items()):  # type: ignore[index]
        raise DamagedReceipt(f"{where} is no receipt: it is damaged; delete it and run again")
    return Receipt(**content)  # type: ignore[arg-type]
