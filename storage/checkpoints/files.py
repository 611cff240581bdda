"""Reads and writes checkpoint files; never runs what is in them.

A file is read once: the bytes that are hashed are the bytes that are loaded, so a file replaced
meanwhile cannot lend one its name and the other its weights.
"""

import errno
import hashlib
import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from storage.checkpoints.pickles import UnreadablePickle, unfolded_size
from storage.checkpoints.sources import promised_sha256
from storage.layout import sidecar
from storage.stores.disk import NO_FILE
from storage.stores.root import Root, TooLarge, UnreadableFile, file_at
from storage.text import first_line

GIB = 2**30
MAX_BYTES = 8 * GIB
WRAPPERS = ("state_dict", "model_state_dict")

_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_VALUES = 10_000_000
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_FOREIGN = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the weights; fetch the file itself with 'git lfs pull'",
    ),
    (b"\x1f\x8b", "is gzip-compressed; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
    (b"Rar!", "is a RAR archive; unpack it first"),
    (b"\x89HDF", "is an HDF5 file; give a PyTorch or safetensors file"),
)
_RESAVE = (
    "load it where you trust it and save its weights alone: "
    "torch.save({'state_dict': model.state_dict()}, file)"
)


class UnusableCheckpoint(ValueError):
    """A checkpoint file that cannot or must not be loaded; the message is one line."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file's weights and identity.

    Attributes
    ----------
    path : str
        The file.
    sha256 : str
        Of the whole file, in hexadecimal.
    size_bytes : int
        Of the whole file.
    state : dict of str to Tensor
        Weights on the CPU under their published names; wrappers such as ``state_dict`` are removed.
    classes : tuple of str, optional
        The classes that it was trained on, if it says so, as `write_checkpoint` can under ``meta``; as
        untrusted as the file.
    """

    path: str
    sha256: str
    size_bytes: int
    state: dict[str, Tensor]
    classes: tuple[str, ...] | None = None


def read_checkpoint(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Checkpoint:
    """Read the weights of a PyTorch or safetensors file, and hash it.

    Parameters
    ----------
    path : path or str
        A local file or an ``s3://`` URL: ``torch.save`` of a state dict, bare or wrapped, or safetensors. A
        file of the same name with ``.sha256`` behind it must agree with it.
    max_bytes : int
        Largest file and largest sum of weights accepted.

    Returns
    -------
    Checkpoint
        Weights, hash and size, all of the same bytes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnusableCheckpoint
        If it is no checkpoint, is damaged, holds code or compressed entries, is too large, or a
        weight is not finite.
    """
    name = os.fspath(path)
    root, file = file_at(name)
    data = _read_once(root, file, name, max_bytes)
    sha256 = hashlib.sha256(data).hexdigest()
    promised = promised_sha256(root, file)
    if promised not in (None, sha256):
        raise UnusableCheckpoint(
            f"{name} has sha256 {sha256}, but its .sha256 file says {promised or 'none'}; "
            "copy both again, or delete the .sha256 file"
        )
    try:
        content = _loaded(data)
        state = _weights(content)
        _check_weights(state, len(data), max_bytes)
    except _Refusal as refusal:
        raise UnusableCheckpoint(f"{name} {refusal}") from refusal.__cause__
    meta = content.get("meta") if isinstance(content, dict) else None
    names = meta.get("classes") if isinstance(meta, dict) else None
    told = isinstance(names, list) and all(isinstance(one, str) for one in names)
    return Checkpoint(name, sha256, len(data), state, tuple(names or ()) or None if told else None)


def write_checkpoint(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], *, meta: Mapping[str, Any] | None = None
) -> str:
    """Publish a checkpoint: it is either whole under its name, or not there.

    Parameters
    ----------
    path : path
        The file; ``<path>.sha256`` is written beside it, in the form that ``sha256sum -c`` reads.
    state : mapping of str to Tensor
        Finite weights under C3D's names.
    meta : mapping, optional
        Plain JSON values; ``epoch`` stands at the top level, as in jfzhang95's
        ``{epoch, state_dict, opt_dict}``, the others under ``meta``. ``opt_dict`` is empty.

    Returns
    -------
    str
        SHA-256 of the file.

    Raises
    ------
    UnusableCheckpoint
        If a weight, or a number of `meta`, is not finite.
    TypeError
        If `meta` holds something else than JSON values, which no safe loader would read.
    """
    root, name = file_at(os.fspath(path))
    return publish_bytes(root, name, checkpoint_bytes(state, meta=meta, name=os.fspath(path)))


def publish_bytes(root: Root, path: str, data: bytes) -> str:
    """Write a checkpoint, then its sidecar; no file ever stands beside the hash of another one."""
    sha256 = hashlib.sha256(data).hexdigest()
    root.delete(sidecar(path))
    root.write_bytes(path, data)
    root.write_bytes(sidecar(path), f"{sha256}  {path.rpartition('/')[2]}\n".encode())
    return sha256


def checkpoint_bytes(
    state: Mapping[str, Tensor], *, meta: Mapping[str, Any] | None = None, name: str = "the checkpoint"
) -> bytes:
    """Make the contents of a checkpoint file, for a place that `write_checkpoint` can't write to.

    Parameters and errors as `write_checkpoint`; `name` is what messages call the file.
    """
    try:
        extra = json.loads(json.dumps(dict(meta or {}), allow_nan=False))
    except ValueError as error:
        raise UnusableCheckpoint(
            f"{name} was not written: a number of its history or settings is NaN or infinite; start the "
            "training anew with a smaller learning rate"
        ) from error
    # Clones: a view would be saved with the whole storage behind it.
    weights = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    try:
        _check_finite(weights)
    except _Refusal as refusal:
        raise UnusableCheckpoint(f"{name} was not written: the model {refusal}") from None
    payload = {"epoch": extra.pop("epoch", 0), "state_dict": weights, "opt_dict": {}, "meta": extra}
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    return buffer.getvalue()


class _Refusal(Exception):
    """Why bytes are no checkpoint, without the name of the file."""


def _read_once(root: Root, file: str, name: str, max_bytes: int) -> bytes:
    """The bytes of a file that `name` stands for in messages."""
    try:
        return root.read_bytes(file, most=max_bytes)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no checkpoint {name}; give a .pth, .pth.tar or .safetensors file"
        ) from error
    except TooLarge as error:
        raise UnusableCheckpoint(
            f"{name} has {root.size(file) or 0:,} bytes, {max_bytes:,} are allowed; save the weights alone"
        ) from error
    except UnreadableFile as error:
        if error.strerror == NO_FILE or error.errno == errno.EISDIR:
            raise UnusableCheckpoint(
                f"{name} is not a regular file; give a .pth, .pth.tar or .safetensors file"
            ) from error
        raise UnusableCheckpoint(f"{name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UnusableCheckpoint(f"{name} cannot be read ({error})") from error


def load_checked(data: bytes, name: str) -> object:
    """What `torch.save` wrote, checked before it is unfolded; nothing in it is ever run.

    Raises
    ------
    UnusableCheckpoint
        If it is damaged, holds code, or unfolds to more than it may.
    """
    try:
        return _loaded(data)
    except _Refusal as refusal:
        raise UnusableCheckpoint(f"{name} {refusal}") from refusal.__cause__


def _loaded(data: bytes) -> object:
    if data.startswith(b"PK\x03\x04"):
        _check_archive(data)
        return _unpickled(data)
    if data.startswith(_LEGACY_TORCH):
        file = io.BytesIO(data)
        # The magic number, the protocol, the system, and then the checkpoint.
        for _ in range(4):
            _check_unfolded(file)
        return _unpickled(data)
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        try:
            return safetensors.torch.load(data)
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise _Refusal(
                f"is a damaged safetensors file ({first_line(error)}); download it again"
            ) from error
    raise _Refusal(_foreign(data))


def _foreign(data: bytes) -> str:
    """Say what bytes are that are no checkpoint."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data:
        return "is empty; download it again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not the weights; the download was answered by a page, fetch the file itself"
    for beginning, meaning in _FOREIGN:
        if data.startswith(beginning):
            return meaning
    if data[257:262] == b"ustar":
        return "is a tar archive; unpack it first"
    if data[:1] == b"\x80":
        return f"is a pickle that torch.save did not write, and may hold code; {_RESAVE}"
    return "is neither a PyTorch nor a safetensors file; give a .pth, .pth.tar or .safetensors file"


def _check_archive(data: bytes) -> None:
    """Refuse an archive whose entries expand, which torch.load would do without asking."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise _Refusal(f"is a damaged or incomplete archive ({error}); copy or download it again") from error
    compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if compressed:
        raise _Refusal(
            f"has {len(compressed)} compressed entries, such as {_quoted(compressed[0])}; {_RESAVE}"
        )
    declared = sum(entry.file_size for entry in entries)
    if declared > len(data):
        raise _Refusal(
            f"declares {declared:,} bytes of entries in a file of {len(data):,}; download it again"
        )
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise _Refusal(f"is a TorchScript archive, which holds code; {_RESAVE}")
    if "data.pkl" not in names:
        raise _Refusal("is a zip archive, but no PyTorch file; unpack it first")
    for entry in entries:
        if entry.filename.rpartition("/")[2] == "data.pkl":
            try:
                content = archive.read(entry)
            except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, OSError) as error:
                raise _Refusal(f"is damaged ({first_line(error)}); download it again") from error
            _check_unfolded(io.BytesIO(content))


def _check_unfolded(file: io.BytesIO) -> None:
    try:
        size = unfolded_size(file)
    except UnreadablePickle as error:
        raise _Refusal("is damaged (its pickle is not whole); download it again") from error
    if size > _MAX_VALUES:
        raise _Refusal(
            f"holds values in values, {float(size):.3g} in all where {_MAX_VALUES:,} are allowed; {_RESAVE}"
        )


def _unpickled(data: bytes) -> object:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = named[1] if named else ""
        if what == "argparse.Namespace":
            held = "its training options as argparse.Namespace, which only unsafe loading reads"
        elif what.startswith("numpy"):
            held = f"numpy values ({what}), which only unsafe loading reads"
        else:
            example = f" ({what})" if what else ""
            held = f"more than weights{example}, which only unsafe loading reads and could run code"
        raise _Refusal(f"holds {held}; {_RESAVE}") from error
    except MemoryError as error:
        raise _Refusal("declares more data than this machine has memory for; download it again") from error
    # A damaged pickle can fail in any way.
    except Exception as error:
        raise _Refusal(f"is damaged ({first_line(error)}); download it again") from error


def _weights(content: object) -> dict[str, Tensor]:
    """Take the weights out of the dicts that trainers wrap around them."""
    while isinstance(content, dict) and (
        inner := [key for key in WRAPPERS if isinstance(content.get(key), dict)]
    ):
        content = content[inner[0]]
    if not isinstance(content, dict) or not content:
        described = "an empty dict" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise _Refusal(f"holds {described} instead of named weights; {_RESAVE}")
    strange = [
        key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if strange:
        raise _Refusal(
            f"holds {len(strange)} entries that are no weights, such as {_quoted(strange[0])}; "
            f"allowed are weights by name, or a dict with them under {' or '.join(WRAPPERS)}"
        )
    return {key: value.detach() for key, value in content.items()}


def _quoted(key: object) -> str:
    """A name from a file, fit for one line of a terminal."""
    return repr(key[:80]) if isinstance(key, str) else f"a {type(key).__name__}"


def _check_weights(state: Mapping[str, Tensor], file_bytes: int, max_bytes: int) -> None:
    for key, value in state.items():
        if value.layout != torch.strided or value.is_nested or value.device.type != "cpu":
            raise _Refusal(
                f"holds {_quoted(key)} in a form that is not dense numbers; save it dense, in float32"
            )
        if value.dtype not in _DTYPES:
            raise _Refusal(f"holds {_quoted(key)} in {value.dtype}; save it in float32")
    # A tensor with stride 0 declares any size over a few bytes.
    sizes = {key: value.numel() * value.element_size() for key, value in state.items()}
    for key, size in sizes.items():
        if size > file_bytes:
            raise _Refusal(
                f"declares {size:,} bytes for {_quoted(key)} in a file of {file_bytes:,}; download it again"
            )
    if sum(sizes.values()) > max_bytes:
        raise _Refusal(
            f"declares {sum(sizes.values()):,} bytes of weights, more than the {max_bytes:,} allowed"
        )
    _check_finite(state)


def _check_finite(state: Mapping[str, Tensor]) -> None:
    bad = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise _Refusal(
            f"has NaN or infinite values in {len(bad)} weights, such as {_quoted(bad[0])}; "
            "use an epoch before training diverged"
        )
