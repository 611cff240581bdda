"""The zarr groups of frames, motion and relevance, and how a finished run is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, DTypeLike, NDArray

from storage.arrays.blocks import (
    Attributes,
    Coordinate,
    Variable,
    blocks,
    create_group,
    read_block,
    write_block,
)
from storage.arrays.private_zarr import bounded
from storage.arrays.zarr_metadata import check_arrays
from storage.stores.receipts import Written
from storage.stores.root import Root, run_at

__all__ = [
    "UnfinishedRun",
    "blocks",
    "create_frames",
    "create_motion",
    "create_relevance",
    "decode",
    "encode",
    "open_run",
    "read_block",
    "read_relevance",
    "read_relevances",
    "write_block",
]

FROZEN_SHARE = "motion_share_frozen"
_CUBE = ("clip", "time", "y", "x")

Columns = Mapping[str, ArrayLike]


class UnfinishedRun(FileNotFoundError):
    """A run without its success marker."""


def create_frames(
    root: Root,
    path: str,
    columns: Columns,
    *,
    length: int,
    height: int,
    width: int,
    block_clips: int = 64,
    attrs: Attributes | None = None,
) -> Written:
    """Create the group of decoded frames: ``frames`` (clip, time, y, x, channel) uint8 RGB.

    Parameters
    ----------
    root, path
        Where the group lies.
    columns : mapping of str to array of shape (clip,)
        One value a clip, of the index: video, class, group, start_frame, n_valid_frames, fps
        and any other; they become coordinates. ``clip`` is 0, 1, .. if absent.
    length, height, width : int
        Frames of a clip, and pixels.
    block_clips : int
        Clips of a block.
    attrs : mapping
        JSON attributes of the group.

    Raises
    ------
    TemplateMismatch
        If the group is there already and was made otherwise.
    """
    sizes = (_n_clips(columns), length, height, width, 3)
    dims = ("clip", "time", "y", "x", "channel")
    variables = {"frames": Variable(dims, sizes, "uint8", 0, {"units": "1", "long_name": "pixel value, RGB"})}
    coordinates = _axes(columns, length, height, width)
    coordinates["channel"] = Coordinate(("channel",), np.array(["R", "G", "B"]))
    return create_group(root, path, variables, coordinates, block_clips, attrs)


def create_motion(
    root: Root,
    path: str,
    columns: Columns,
    *,
    length: int,
    height: int,
    width: int,
    block_clips: int = 64,
    attrs: Attributes | None = None,
) -> Written:
    """Create the group of motion: the optical flow, and how much of it is the camera's.

    ``flow`` (clip, time, y, x, component) float16, pixels per frame; ``camera`` (clip, time, component,
    term) float32: its product with (x, y, 1) is the camera's flow at pixel (x, y); ``moved`` (clip)
    float32: the share of the pixels over which something moves. NaN where unknown.
    Parameters and errors as `create_frames`.
    """
    sizes = (_n_clips(columns), length, height, width, 2)
    dims = ("clip", "time", "y", "x", "component")
    about = {"units": "px/frame", "long_name": "optical flow from this frame to the next"}
    coordinates = _axes(columns, length, height, width)
    coordinates["component"] = Coordinate(("component",), np.array(["x", "y"]))
    coordinates["term"] = Coordinate(("term",), np.array(["x", "y", "1"]))
    of_camera = {"units": "px/frame", "long_name": "affine map of the dominant motion, times (x, y, 1)"}
    of_pixels = {"units": "1", "long_name": "share of the pixels over which something moves"}
    shape = (*sizes[:2], 2, 3)
    variables = {
        "flow": Variable(dims, sizes, "float16", np.nan, about),
        "camera": Variable(("clip", "time", "component", "term"), shape, "float32", np.nan, of_camera, False),
        "moved": Variable(("clip",), shape[:1], "float32", np.nan, of_pixels, False),
    }
    return create_group(root, path, variables, coordinates, block_clips, attrs)


def create_relevance(
    root: Root,
    path: str,
    columns: Columns,
    *,
    methods: Mapping[str, Attributes],
    outputs: Sequence[str],
    length: int,
    height: int,
    width: int,
    block_clips: int = 64,
    changes: Sequence[str] = (),
    attrs: Attributes | None = None,
) -> Written:
    """Create the group of a run's explanations.

    Holds for every method ``<method>`` (clip, time, y, x) float16 in [-1, 1] and
    ``<method>_scale`` (clip) float32, see `encode`; ``logits`` (clip, output) float32,
    ``target`` and ``predicted`` (clip) int32, -1 where unknown, ``conservation_error`` (clip) float32; and
    for every change of the clips ``logits_<change>`` (clip, output) float32.

    Parameters
    ----------
    root, path, columns, length, height, width, block_clips, attrs
        As `create_frames`; ``attrs`` says at least the checkpoint's sha256 and the profile.
    methods : mapping of str to mapping
        Attributes of each method's array, by the method's name; of one that is no cube, with its ``axes``.
    outputs : sequence of str
        Names of the outputs, in the order in which their logits will be written.
    changes : sequence of str
        The changes of the clips about which the model is asked, too.

    Raises
    ------
    TemplateMismatch
        As `create_frames`.
    ValueError
        If a method has the name of another array.
    """
    n_clips = _n_clips(columns)
    sizes = {"clip": n_clips, "time": length, "y": height, "x": width, "output": len(outputs)}
    of_methods = [_method_variables(method, about, sizes) for method, about in methods.items()]
    of_model = _model_variables(n_clips, len(outputs), changes)
    variables = {name: one for of_one in (*of_methods, of_model) for name, one in of_one.items()}
    coordinates = _axes(columns, length, height, width)
    coordinates["output"] = Coordinate(
        ("output",), np.array(list(outputs)), {"long_name": "class of the output"}
    )
    expected = sum(map(len, (*of_methods, of_model)))
    taken = sorted(set(variables) & set(coordinates) | (set(methods) & set(of_model)))
    if taken or len(variables) != expected:
        raise ValueError(
            f"methods {sorted(methods)} and columns must have names of their own; taken: {taken or 'twice'}"
        )
    return create_group(root, path, variables, coordinates, block_clips, attrs)


def read_relevance(
    root: Root, path: str, method: str, start: int, stop: int, *, axes: Mapping[str, int] | None = None
) -> NDArray[np.float32]:
    """Read the cubes of one method in real units: float32 (clip, time, y, x).

    Axes and errors as `read_block`.
    """
    return read_relevances(root, path, [method], start, stop, axes=axes)[method]


def read_relevances(
    root: Root,
    path: str,
    methods: Sequence[str],
    start: int,
    stop: int,
    *,
    axes: Mapping[str, int] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Read the cubes of several methods, as `read_relevance` reads those of one."""
    names = [name for method in methods for name in (method, f"{method}_scale")]
    found = read_block(root, path, start, stop, names, axes=axes)
    return {method: decode(found.pop(method), found[f"{method}_scale"]) for method in methods}


def encode(cubes: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Scale every cube by its largest magnitude and round it to float16.

    The sign of every voxel survives: what would round to zero becomes the smallest float16, 6e-8
    of the maximum, so that "relevant" (R > 0) means the same before and after. The relative
    error is at most 2**-11, the absolute error below 6e-5 of the maximum at most 6e-8 of it.

    Parameters
    ----------
    cubes : float32 array (clip, time, y, x)
        Relevance.

    Returns
    -------
    values : float16 array (clip, time, y, x)
        In [-1, 1].
    scale : float32 array (clip,)
        Largest magnitude of each cube; 0 for a cube of zeros.

    Raises
    ------
    ValueError
        If a cube holds NaN or infinity.
    """
    volume = (1, 2, 3)
    scale = np.abs(np.maximum(cubes.max(axis=volume), -cubes.min(axis=volume))).astype(np.float32)
    if not np.isfinite(scale).all():
        bad = np.flatnonzero(~np.isfinite(scale)).tolist()
        raise ValueError(
            f"cubes {bad} of the block hold NaN or infinity: relevance must be finite to be stored"
        )
    divisor = np.where(scale > 0, scale, np.float32(1))[:, None, None, None]
    values = (cubes / divisor).astype(np.float16)
    # Its bits without the sign: comparing float16 takes four times as long.
    lost = (values.view(np.uint16) << 1 == 0) & (cubes != 0)
    values[lost] = np.copysign(np.finfo(np.float16).smallest_subnormal, cubes[lost]).astype(np.float16)
    return values, scale


def decode(values: NDArray[np.float16], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring stored cubes back to real units: float32 (clip, time, y, x), the inverse of `encode`."""
    cubes = values.astype(np.float32)
    cubes *= scale[:, None, None, None]
    return cubes


def open_run(url: str, *, unfinished: bool = False, axes: Mapping[str, int] | None = None) -> xr.Dataset:
    """Open a run's explanations lazily, each method in real units.

    Parameters
    ----------
    url : str
        ``<root>/runs/<name>``, a directory, ``file://`` or ``s3://``.
    unfinished : bool
        Open a run that is not finished too; clips that are not written yet are NaN.
    axes : mapping of str to int, optional
        The size that every axis must have, by its name.

    Returns
    -------
    xarray.Dataset
        Every method float32 (clip, time, y, x), with the names of clips, videos and classes as
        coordinates. Nothing of the cubes is read before it is asked for.

    Raises
    ------
    UnfinishedRun
        If the run has no success marker.
    FileNotFoundError
        If there is no such run.
    UnsafeGroup
        If its arrays are not as this project writes them.
    """
    root, run = run_at(url)
    _check_run(root, run.relevance, run.success, unfinished, axes)
    store = root.zarr_store(run.relevance, read_only=True)
    with bounded():
        dataset: xr.Dataset = xr.open_zarr(store, chunks={}, zarr_format=3)
    dataset = dataset.assign_coords({name: coordinate.load() for name, coordinate in dataset.coords.items()})
    scales = {str(name): array.attrs["scale"] for name, array in dataset.items() if "scale" in array.attrs}
    for name, scale in scales.items():
        real = dataset[name].astype("float32") * dataset[scale]
        real.attrs = {key: value for key, value in dataset[name].attrs.items() if key != "scale"}
        dataset[name] = real
    # It says how to come to the real units.
    dataset.attrs.pop("comment", None)
    return dataset.drop_vars(list(scales.values()))


def _check_run(
    root: Root, relevance: str, success: str, unfinished: bool, axes: Mapping[str, int] | None
) -> None:
    try:
        group = root.read_json(f"{relevance}/zarr.json")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no explanations at {root.join(relevance)}: `selrel runs --root URL` lists the runs"
        ) from None
    consolidated = group.get("consolidated_metadata") if isinstance(group, dict) else None
    arrays = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    check_arrays(arrays, root.join(relevance), axes)
    if not unfinished and not root.exists(success):
        raise UnfinishedRun(
            f"the run at {root.join(relevance)} is not finished (no {root.join(success)}):"
            " finish it by the same `selrel explain` command, or open it with unfinished=True"
        )


def _method_variables(method: str, about: Attributes, sizes: Mapping[str, int]) -> dict[str, Variable]:
    axes = tuple(about.get("axes", _CUBE))
    shape = tuple(sizes[axis] for axis in axes)
    if axes != _CUBE:
        attrs = {"units": "1", **{name: value for name, value in about.items() if name != "axes"}}
        return {method: Variable(axes, shape, "float32", np.nan, attrs, False)}
    scale = f"{method}_scale"
    about = {name: value for name, value in about.items() if name != "axes"}
    attrs = {"method": method, "long_name": f"{method} relevance", "units": "1", **about, "scale": scale}
    about_scale = {"long_name": f"largest magnitude of each {method} cube", "units": attrs["units"]}
    about_scale["comment"] = f"{method} is stored divided by it"
    return {
        method: Variable(axes, shape, "float16", np.nan, attrs),
        scale: _per_clip(shape[0], "float32", np.nan, about_scale),
    }


def logits_of(change: str) -> str:
    """The array of the logits of changed clips."""
    return f"logits_{change}"


def _model_variables(n_clips: int, n_outputs: int, changes: Sequence[str]) -> dict[str, Variable]:
    logits = {"long_name": "the model's outputs before softmax", "units": "1"}
    share = {"long_name": "motion share of the frozen clip, of a sample of the clips", "units": "1"}
    of_changed = {
        logits_of(change): Variable(
            ("clip", "output"), (n_clips, n_outputs), "float32", np.nan,
            {**logits, "long_name": f"the model's outputs before softmax for the {change} clip"}, False,
        )
        for change in changes
    }  # fmt: skip
    error = {"long_name": "relative difference of the deep Taylor cube's sum from its start", "units": "1"}
    return {
        "logits": Variable(("clip", "output"), (n_clips, n_outputs), "float32", np.nan, logits, False),
        "target": _per_clip(n_clips, "int32", -1, {"long_name": "output that is explained"}),
        "predicted": _per_clip(n_clips, "int32", -1, {"long_name": "output with the highest logit"}),
        "conservation_error": _per_clip(n_clips, "float32", np.nan, error),
        **of_changed,
        **({FROZEN_SHARE: _per_clip(n_clips, "float32", np.nan, share)} if "frozen" in changes else {}),
    }


def _per_clip(n_clips: int, dtype: DTypeLike, fill: float | int, attrs: Attributes) -> Variable:
    return Variable(("clip",), (n_clips,), dtype, fill, attrs, one_clip_a_chunk=False)


def _n_clips(columns: Columns) -> int:
    lengths = {name: len(np.asarray(values)) for name, values in columns.items()}
    if not lengths or len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(
            f"columns must hold one value a clip, and one clip or more; their lengths are {lengths}"
        )
    return next(iter(lengths.values()))


def _axes(columns: Columns, length: int, height: int, width: int) -> dict[str, Coordinate]:
    of_clips = {"clip": np.arange(_n_clips(columns)), **{name: np.asarray(v) for name, v in columns.items()}}
    axes = {}
    for name, values in of_clips.items():
        plain = values.dtype.kind in "biufU"
        if values.ndim == 1 and not plain and all(isinstance(one, str) for one in values.tolist()):
            values = np.array(values.tolist(), dtype=str)
        if values.ndim != 1 or values.dtype.kind not in "biufU":
            raise ValueError(
                f"column {name!r} has dtype {values.dtype}: give one number or one string a clip"
            )
        axes[name] = Coordinate(("clip",), values)
    axes["time"] = _time_axis(of_clips.get("fps"), length)
    for name, size in (("y", height), ("x", width)):
        axes[name] = Coordinate((name,), np.arange(size), {"units": "px"})
    return axes


def _time_axis(fps: NDArray[Any] | None, length: int) -> Coordinate:
    known = np.array([]) if fps is None else fps[np.isfinite(fps) & (fps > 0)]
    if not known.size:
        return Coordinate(
            ("time",), np.arange(length), {"units": "frame", "long_name": "frame within the clip"}
        )
    # One axis for all clips: the lower middle value is a rate that videos really have.
    usual = float(np.sort(known)[(known.size - 1) // 2])
    about = {"units": "s", "long_name": "time within the clip", "fps": usual}
    if (known != usual).any():
        about["comment"] = "of the usual frame rate; fps holds the rate of each clip's video"
    return Coordinate(("time",), np.arange(length) / usual, about)
