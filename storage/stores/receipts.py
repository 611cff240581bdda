"""Receipts: a block is done when its receipt is there, and it says what was written, to the byte.

A receipt names every file it vouches for with the sha256 of its bytes, so that one function finds any
damage, whatever stage wrote the file. It carries a seal, the hash of the rest of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.layout import content_hash, home, lies_in
from storage.stores.root import Root, UnreadableFile

REPAIR = "the same command again redoes it; if the run is finished, `selrel verify RUN --repair` first"
_NONE = "is no receipt, or was changed"
LINK = "is a link, where only files of the run or data set itself are taken: refused"
_RECEIPT = re.compile(r"([0-9]{6}|[1-9][0-9]{6,11})\.json")
_KINDS = {"stage": str, "block": int, "start": int, "stop": int, "sha256": dict, "files": dict, "sizes": dict}


class HasReceipts(Protocol):
    """The paths of a data set or of a run."""

    def receipts(self, stage: str, block: int) -> str:
        """Receipt of one block of one stage."""
        ...

    def effort(self, stage: str) -> str:
        """What the blocks of a stage took."""
        ...


class DamagedReceipt(ValueError):
    """A receipt that can't be parsed, or that names files outside its run or data set."""

    def __init__(self, where: str, reason: str) -> None:
        # Unchanged, so that the error can be pickled and come back from a worker.
        super().__init__(where, reason)
        self.reason = reason

    def __str__(self) -> str:
        """Name the receipt, what is wrong, and what to do."""
        return f"{self.args[0]} {self.reason}: {REPAIR}"


@dataclass(frozen=True)
class Written:
    """What has been written for one block.

    Parameters
    ----------
    sha256 : dict of str to str
        Hash of the content: of each clip by its number, the same however clips are cut into blocks; of
        everything else by the name of its table.
    files : dict of str to str
        sha256 of the bytes of every file, by its path under the root.
    sizes : dict of str to int
        Bytes of every file; empty in receipts of the first versions.
    """

    sha256: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def __or__(self, other: Written) -> Written:
        """Join what two steps wrote."""
        return Written(self.sha256 | other.sha256, self.files | other.files, self.sizes | other.sizes)


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
    sha256, files, sizes : dict
        As in `Written`.
    """

    stage: str
    block: int
    start: int
    stop: int
    sha256: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def write_receipt(
    root: Root, paths: HasReceipts, stage: str, block: int, written: Written, *, start: int = 0, stop: int = 0
) -> Receipt:
    """Write the receipt of a block, after everything it vouches for is written.

    It holds no time and no host, so that a repeated block gives the same bytes.
    """
    what = (dict(written.sha256), dict(written.files), dict(written.sizes))
    receipt = Receipt(stage, block, start, stop, *what)
    root.write_json(paths.receipts(stage, block), sealed(asdict(receipt)))
    return receipt


def read_receipt(root: Root, path: str) -> Receipt | None:
    """Read a receipt; None if there is none.

    Raises
    ------
    DamagedReceipt
        If the file is there but is no receipt, or not the one that was written.
    """
    try:
        content = root.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError:
        raise DamagedReceipt(root.join(path), _NONE) from None
    return _parsed(content, root.join(path), home(path))


def pending(root: Root, paths: HasReceipts, stage: str, blocks: Iterable[int]) -> list[int]:
    """Blocks of a stage that have no receipt, in the order given; one listing, whatever their number."""
    done = set(blocks_done(root, paths, stage))
    return [block for block in blocks if block not in done]


def blocks_done(root: Root, paths: HasReceipts, stage: str) -> list[int]:
    """The blocks of a stage that have a receipt, sound or not, in their order."""
    names = root.listdir(paths.receipts(stage, 0).rpartition("/")[0])
    return sorted(int(name[: -len(".json")]) for name in names if _RECEIPT.fullmatch(name))


def read_receipts(root: Root, paths: HasReceipts, stage: str) -> list[Receipt]:
    """All receipts of a stage, in block order.

    Raises
    ------
    DamagedReceipt
        If one of the files is no receipt.
    """
    found = (read_receipt(root, paths.receipts(stage, n)) for n in blocks_done(root, paths, stage))
    return [receipt for receipt in found if receipt is not None]


def recorded_files(root: Root, paths: HasReceipts, stage: str) -> dict[str, str]:
    """Every file that the receipts of a stage vouch for: its sha256 by its path."""
    return {path: sha256 for r in read_receipts(root, paths, stage) for path, sha256 in r.files.items()}


def file_hashes(root: Root, files: Iterable[str]) -> Written:
    """Hash files that were written just now, for a receipt."""
    found = {path: root.sha256(path) for path in files}
    return Written(files={p: f[0] for p, f in found.items()}, sizes={p: f[1] for p, f in found.items()})


def of_bytes(path: str, data: bytes) -> Written:
    """What a receipt records of a file whose bytes are in memory."""
    return Written(files={path: hashlib.sha256(data).hexdigest()}, sizes={path: len(data)})


def damages(root: Root, paths: HasReceipts, stage: str, block: int) -> dict[str, str]:
    """Read again everything that a block's receipt vouches for.

    Returns
    -------
    dict of str to str
        What is wrong, in words, by the path of the file; empty if the block is sound.
    """
    path = paths.receipts(stage, block)
    if link := root.link_on(path):
        return {link: LINK}
    try:
        receipt = read_receipt(root, path)
    except DamagedReceipt as error:
        return {path: error.reason}
    except UnreadableFile as error:
        return {path: f"can't be read: {error.strerror}"}
    if receipt is None:
        return {path: "is missing"}
    if (receipt.stage, receipt.block) != (stage, block):
        return {path: f"is the receipt of {receipt.stage} {receipt.block}"}
    # One of them is enough: everything below it is reached through it.
    if link := next(filter(None, map(root.link_on, receipt.files)), None):
        return {link: LINK}
    found = {}
    for file, written in receipt.files.items():
        try:
            sha256, size = root.sha256(file, size_bytes=receipt.sizes.get(file))
        except FileNotFoundError:
            found[file] = "is missing"
        except UnreadableFile as error:
            found[file] = f"can't be read: {error.strerror}"
        else:
            if sha256 != written:
                found[file] = f"is not what was written ({size:,} bytes)"
    return found


def discard_damaged(root: Root, paths: HasReceipts, stage: str, block: int) -> dict[str, str]:
    """Delete the receipt of a block unless the block is sound, so that the block is done again.

    Returns
    -------
    dict of str to str
        As `damages`.
    """
    found = damages(root, paths, stage, block)
    if found:
        discard(root, paths, stage, block, found)
    return found


def discard(root: Root, paths: HasReceipts, stage: str, block: int, files: Iterable[str]) -> None:
    """Delete files of a block, and last its receipt."""
    for path in [*files, paths.receipts(stage, block)]:
        root.delete(path)


def withdraw(root: Root, paths: HasReceipts, stage: str, block: int) -> None:
    """Delete a block that was done: all files of its receipt, and last the receipt."""
    try:
        receipt = read_receipt(root, paths.receipts(stage, block))
    except (DamagedReceipt, UnreadableFile):
        receipt = None
    discard(root, paths, stage, block, receipt.files if receipt else ())


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Add a seal to a JSON object: the hash of all of it."""
    return {**content, "seal": content_hash(content)}


def is_sealed(content: object) -> bool:
    """Whether a JSON object is as it was when it got its seal."""
    if not isinstance(content, dict) or "seal" not in content:
        return False
    try:
        return bool(content["seal"] == content_hash({k: v for k, v in content.items() if k != "seal"}))
    except (ValueError, RecursionError):
        # NaN, or endlessly nested lists: nothing like that was ever sealed.
        return False


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


def _parsed(content: object, where: str, directory: str) -> Receipt:
    if not isinstance(content, dict) or not is_sealed(content):
        raise DamagedReceipt(where, _NONE)
    # The first versions kept no sizes.
    values = {"sizes": {}, **{name: value for name, value in content.items() if name != "seal"}}
    if values.keys() != _KINDS.keys() or any(type(values[name]) is not kind for name, kind in _KINDS.items()):
        raise DamagedReceipt(where, _NONE)
    receipt = Receipt(**values)
    if foreign := [path for path in receipt.files if not lies_in(path, directory)]:
        raise DamagedReceipt(where, f"names {foreign[0]!r}, which is no file of {directory}: refused")
    numbers = [receipt.block, receipt.start, receipt.stop, *receipt.sizes.values()]
    texts = [*receipt.files.values(), *receipt.sha256.values()]
    if not all(type(n) is int and n >= 0 for n in numbers) or not all(isinstance(one, str) for one in texts):
        raise DamagedReceipt(where, _NONE)
    return receipt
