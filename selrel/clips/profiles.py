"""What a checkpoint expects of its input: size, crop, colour order, means and label order.

A View says which pixels of a decoded frame a model sees, and is all that decoding depends on: two
checkpoints with the same view share one decoded data set. A Profile adds what turns those pixels
into numbers, and the order of the model's outputs.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeVar, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CropRounding = Literal["floor", "round"]
ColourOrder = Literal["RGB", "BGR"]
LabelOrder = Literal["classInd", "sorted"]

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class View:
    """The pixels and frames a model sees of a video.

    Attributes
    ----------
    resize : (width, height) or int
        Size of the whole frame after scaling, in pixels; an int is the length of the short side,
        with the aspect ratio kept. Bilinear.
    crop : (height, width)
        Size of the centre crop after scaling, in pixels.
    crop_rounding : "floor" or "round"
        What becomes of half a pixel of offset: 59 / 2 is column 29 (mmaction2) or 30
        (jfzhang95 and torchvision, by Python's `round`).
    clip_length : int
        Frames in one clip.

    Raises
    ------
    ValueError
        If a size is not positive, the crop does not fit, or the rounding is unknown.
    """

    resize: tuple[int, int] | int
    crop: tuple[int, int]
    crop_rounding: CropRounding = "floor"
    clip_length: int = 16

    def __post_init__(self) -> None:
        """Check the sizes."""
        several = isinstance(self.resize, tuple | list)
        resize = _sizes("resize", self.resize) if several else _whole("resize", self.resize)
        object.__setattr__(self, "resize", resize)
        object.__setattr__(self, "crop", _sizes("crop", self.crop))
        object.__setattr__(self, "clip_length", _whole("clip_length", self.clip_length))
        _allowed("crop_rounding", self.crop_rounding, get_args(CropRounding))
        if min(self.clip_length, *([resize] if isinstance(resize, int) else resize), *self.crop) < 1:
            raise ValueError(f"{self} has a size below 1; every size of a view is 1 or more")
        if isinstance(resize, tuple):
            crop_window(resize[1], resize[0], self)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields as plain JSON values."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "View":
        """Rebuild a view from `as_dict`.

        Raises
        ------
        ValueError
            If a field is missing, unknown or out of range.
        """
        _check_fields("view", values, cls)
        return cls(**values)


@dataclass(frozen=True)
class Profile:
    """Everything between a decoded frame and a model's input, and from its outputs to class names.

    The model's input is ``(pixel * scale - mean) / std`` per channel, pixel in 0..255, with the
    channels, `mean` and `std` in `colour_order`.

    Attributes
    ----------
    family : str
        Name of the checkpoint family the profile belongs to.
    view : View
        The pixels seen.
    colour_order : "RGB" or "BGR"
        Order of the input channels.
    scale : float
        Multiplier of the pixel value, 1 or 1/255.
    mean, std : (float, float, float)
        Per channel, in `colour_order`, in units of the scaled pixel.
    label_order : "classInd" or "sorted"
        Whether output k is class k+1 of classInd.txt or the k-th of Python's `sorted(names)`.

    Raises
    ------
    ValueError
        If a value is not finite, a divisor is not positive, or a choice is unknown.
    """

    family: str
    view: View
    colour_order: ColourOrder
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    label_order: LabelOrder

    def __post_init__(self) -> None:
        """Check the numbers and the choices."""
        object.__setattr__(self, "scale", _number("scale", self.scale))
        object.__setattr__(self, "mean", _triple("mean", self.mean))
        object.__setattr__(self, "std", _triple("std", self.std))
        _allowed("colour_order", self.colour_order, get_args(ColourOrder))
        _allowed("label_order", self.label_order, get_args(LabelOrder))
        if not (math.isfinite(self.scale) and min(self.scale, *self.std) > 0):
            raise ValueError(f"scale {self.scale} and std {self.std} must be finite and above 0")

    @property
    def sample_shape(self) -> tuple[int, int, int, int]:
        """Shape of one normalised clip, (channel, time, height, width)."""
        return (3, self.view.clip_length, *self.view.crop)

    def override(self, **changes: Any) -> "Profile":
        """Replace fields of the profile or of its view by name.

        Raises
        ------
        ValueError
            If a name is unknown (the message lists the known ones) or a value is not allowed.
        """
        of_view = {field.name for field in dataclasses.fields(View)}
        known = (of_view | {field.name for field in dataclasses.fields(Profile)}) - {"family", "view"}
        if unknown := sorted(set(changes) - known):
            raise ValueError(f"a profile has no {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        view = dataclasses.replace(self.view, **{k: v for k, v in changes.items() if k in of_view})
        return dataclasses.replace(self, view=view, **{k: v for k, v in changes.items() if k not in of_view})

    def as_dict(self) -> dict[str, Any]:
        """Give the fields, the view's too, as plain JSON values."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Profile":
        """Rebuild a profile from `as_dict`.

        Raises
        ------
        ValueError
            If a field is missing, unknown or out of range.
        """
        _check_fields("profile", values, cls)
        return cls(**{**values, "view": View.from_dict(values["view"])})


def resize_frame(frame: npt.NDArray[np.uint8], view: View) -> npt.NDArray[np.uint8]:
    """Scale a whole decoded frame to the view's size, without cropping.

    Parameters
    ----------
    frame : uint8, (y, x, 3) or (y, x)
        One decoded frame.
    view : View
        Gives the size.

    Returns
    -------
    uint8, (y, x, 3) or (y, x)
        Bilinear (OpenCV INTER_LINEAR, no antialiasing), as all the checkpoint families do it.
    """
    size = resized_size(frame.shape[1], frame.shape[0], view)
    return cast(npt.NDArray[np.uint8], cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR))


def resized_size(width: int, height: int, view: View) -> tuple[int, int]:
    """Size (width, height) a video frame has after scaling and before the crop."""
    if isinstance(view.resize, tuple):
        return view.resize
    factor = view.resize / min(width, height)
    return int(width * factor + 0.5), int(height * factor + 0.5)


def crop(frame: npt.NDArray[Scalar], view: View) -> npt.NDArray[Scalar]:
    """Take the view's centre crop of a scaled frame.

    Parameters
    ----------
    frame : array, (y, x, ...)
        A scaled frame, or its flow, or its grey picture.
    view : View
        Gives the size and the rounding.

    Returns
    -------
    array, (height, width, ...)
        A view into `frame`, not a copy.

    Raises
    ------
    ValueError
        If the frame is smaller than the crop.
    """
    top, left = crop_window(frame.shape[0], frame.shape[1], view)
    return frame[top : top + view.crop[0], left : left + view.crop[1]]


def crop_window(height: int, width: int, view: View) -> tuple[int, int]:
    """First row and column of the centre crop in a scaled frame of this height and width.

    Raises
    ------
    ValueError
        If the frame is smaller than the crop.
    """
    spare = height - view.crop[0], width - view.crop[1]
    if min(spare) < 0:
        raise ValueError(
            f"crop {view.crop[0]}x{view.crop[1]} (height x width) does not fit a frame scaled to "
            f"{height}x{width}; make resize larger or crop smaller"
        )
    if view.crop_rounding == "floor":
        return spare[0] // 2, spare[1] // 2
    return round(spare[0] / 2), round(spare[1] / 2)


def normalise(frames: npt.NDArray[np.uint8] | Tensor, profile: Profile) -> Tensor:
    """Turn stored frames into a model's input.

    Parameters
    ----------
    frames : uint8, (clip, time, y, x, 3)
        RGB, already scaled and cropped. A tensor stays on its device.
    profile : Profile
        Gives colour order, scale, mean and standard deviation.

    Returns
    -------
    float32 tensor, (clip, channel, time, y, x), contiguous
        ``(pixel * scale - mean) / std``, between the two `bounds`.

    Raises
    ------
    ValueError
        If the frames are not uint8 or not five-dimensional with three channels last.
    """
    pixels = frames if isinstance(frames, Tensor) else torch.from_numpy(np.ascontiguousarray(frames))
    if pixels.dtype != torch.uint8 or pixels.ndim != 5 or pixels.shape[-1] != 3:
        raise ValueError(
            f"frames are {pixels.dtype} {tuple(pixels.shape)}; give uint8 (clip, time, y, x, 3) in RGB"
        )
    if profile.colour_order == "BGR":
        pixels = pixels.flip(-1)
    return _standardise(pixels.to(torch.float32), profile).permute(0, 4, 1, 2, 3).contiguous()


def bounds(profile: Profile) -> tuple[Tensor, Tensor]:
    """Lowest and highest value that a normalised pixel can take, per channel.

    Parameters
    ----------
    profile : Profile
        Gives colour order, scale, mean and standard deviation.

    Returns
    -------
    low, high : float32 tensors, (3,)
        What pixel 0 and pixel 255 become, by the very arithmetic of `normalise`, in `colour_order`.

    References
    ----------
    Montavon et al. 2017, the zB rule, with one bound per channel.
    """
    low = _standardise(torch.zeros(3), profile)
    return low, _standardise(torch.full((3,), 255.0), profile)


def _standardise(pixels: Tensor, profile: Profile) -> Tensor:
    mean = torch.tensor(profile.mean, device=pixels.device)
    std = torch.tensor(profile.std, device=pixels.device)
    return (pixels * profile.scale - mean) / std


def _sizes(name: str, values: object) -> tuple[int, int]:
    if not (isinstance(values, tuple | list) and len(values) == 2):
        raise ValueError(f"{name} is {values!r}; give two whole numbers of pixels")
    return _whole(name, values[0]), _whole(name, values[1])


def _triple(name: str, values: object) -> tuple[float, float, float]:
    if not (isinstance(values, tuple | list) and len(values) == 3):
        raise ValueError(f"{name} is {values!r}; give three numbers, one a colour channel")
    first, second, third = (_number(name, value) for value in values)
    return first, second, third


def _whole(name: str, value: object) -> int:
    """Bring a whole number into its one form: 16.0 and 16 are the same view."""
    number = _number(name, value)
    if number != int(number):
        raise ValueError(f"{name} has {value!r}; give whole numbers")
    return int(number)


def _number(name: str, value: object) -> float:
    """Bring a number into its one form: 1 and 1.0, 0 and -0.0 are the same profile."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} has {value!r}; give finite numbers")
    return float(value) + 0.0


def _allowed(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(choices)}")


def _check_fields(kind: str, values: Mapping[str, Any], cls: type[View] | type[Profile]) -> None:
    expected = {field.name for field in dataclasses.fields(cls)}
    if set(values) != expected:
        raise ValueError(f"a {kind} with fields {sorted(values)} is not one; it needs {sorted(expected)}")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else _plain(value) if isinstance(value, dict) else value
        for key, value in values.items()
    }
