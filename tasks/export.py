"""Export: one clip of a finished run as a film, a sheet or arrays, and its tables as vector figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from selrel.pictures.films import explained, film
from selrel.pictures.images import Palette, contact_sheet, png, relevance_scale
from selrel.scores.aggregate import SIGMA
from selrel.selective import SelectiveParameters, selective_mask
from storage.arrays.cubes import open_run, read_block
from storage.report import exports, vector_figures
from storage.report.columns import main_method, overall, shown_table
from storage.results import result_rows
from storage.runs import finished_run
from tasks.clips import clips_of
from tasks.page import FLOW_SCALE
from tasks.views import views

Kind = Literal["webm", "gif", "mp4", "png", "npz"]

FPS = 8.0
_MAX_FPS = 60.0
_KEPT = ("clip", "video", "class", "group", "split", "start_frame", "n_valid_frames", "fps")


@dataclass(frozen=True)
class Clip:
    """What is known of one clip, in its valid frames.

    Attributes
    ----------
    about
        Where it comes from: its number, video, class, first frame, the class that is explained.
    frames
        uint8, (time, y, x, 3), RGB.
    flow
        float32, (time, y, x, 2), px/frame, NaN where unknown.
    relevance
        By method: float32, (time, y, x), in real units.
    parameters
        The run's choices of the selective step.
    """

    about: dict[str, Any]
    frames: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.float32]
    relevance: dict[str, npt.NDArray[np.float32]]
    parameters: SelectiveParameters

    @property
    def title(self) -> str:
        """One line for a person."""
        known = self.about
        return (
            f"{known['video']}, from frame {known['start_frame'] + 1}: {known['class']}; "
            f"the model says {known['predicted']}"
        )

    def masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Where each method's relevance is selected."""
        n = len(self.frames)
        return {
            method: selective_mask(torch.from_numpy(cube), n, self.parameters).numpy()
            for method, cube in self.relevance.items()
        }


def method_of_film(url: str) -> str:
    """The method that a film shows if none is asked for.

    Raises
    ------
    ValueError
        If there is no finished run.
    """
    return main_method(finished_run(url).settings["methods"])


def read_clip(url: str, clip: int, *, methods: Sequence[str] | None = None, sigma: float = SIGMA) -> Clip:
    """Read one clip of a finished run.

    Parameters
    ----------
    url : str
        ``<root>/runs/<name>``.
    clip : int
        Its number, from 0.
    methods : sequence of str, optional
        The explanations; all of the run by default.
    sigma : float
        Threshold of the selective step, in standard deviations; any above 0.

    Raises
    ------
    ValueError
        If there is no finished run, the run has no such clip or method, or sigma means nothing.
    """
    run = finished_run(url)
    root, dataset = run.root, run.dataset.paths
    axes = clips_of(root, run.description["dataset_id"]).axes
    known = list(run.settings["methods"])
    if unknown := [name for name in methods or () if name not in known]:
        raise ValueError(f"method {unknown[0]!r} is not in this run; it has {', '.join(known)}")
    parameters = SelectiveParameters(**run.settings["selective"], sigma=sigma)
    cubes = open_run(url, axes=axes)
    n = cubes.sizes["clip"]
    if not 0 <= clip < n:
        listed = root.join(run.paths.table("clips"))
        raise ValueError(f"clip {clip} is not in this run; it has clips 0 to {n - 1}, {listed} lists them")
    row = cubes.isel(clip=clip)
    n = int(row["n_valid_frames"])
    relevance = {method: np.asarray(row[method].values)[:n] for method in methods or known}
    if not all(np.isfinite(cube).all() for cube in relevance.values()):
        raise ValueError(f"clip {clip} was not explained; the report's list of what was left out says why")
    frames = read_block(root, dataset.frames, clip, clip + 1, ["frames"], axes=axes)["frames"][0, :n]
    flow = read_block(root, dataset.motion, clip, clip + 1, ["flow"], axes=axes)["flow"][0, :n]
    outputs, target = row.output.values, int(row.target)
    return Clip(
        about={
            "run": run.url,
            **{name: row[name].item() for name in _KEPT},
            "predicted": str(outputs[int(row.predicted)]),
            "explained_class": str(outputs[target]),
            "explained_logit": float(row.logits[target]),
        },
        frames=frames,
        flow=flow.astype(np.float32),
        relevance=relevance,
        parameters=parameters,
    )


def export_clip(clip: Clip, kind: Kind, *, fps: float = FPS, palette: Palette = "red-blue") -> bytes:
    """Make the file of a clip.

    Parameters
    ----------
    clip : Clip
        As `read_clip` gives it; a film has a row a method.
    kind : str
        ``webm``, ``gif`` and ``mp4`` are films of input, flow, baseline and selective relevance side by
        side; ``png`` is a contact sheet; ``npz`` holds the arrays.
    fps : float
        Frames per second of a film.
    palette : "red-blue" or "orange-purple"
        Colours of a film or a sheet.

    Raises
    ------
    ValueError
        If fps is not above 0 and up to 60.
    """
    if not 0 < fps <= _MAX_FPS:
        raise ValueError(f"fps is {fps:g}; use frames per second above 0 and up to {_MAX_FPS:g}, such as 8")
    if kind == "npz":
        return _npz(clip)
    if kind == "png":
        sheet = contact_sheet(
            clip.frames, clip.flow, clip.relevance, clip.masks(), flow_scale=FLOW_SCALE, palette=palette
        )
        scales = {method: relevance_scale(cube) for method, cube in clip.relevance.items()}
        title = f"{clip.title}; selective: {clip.parameters.sigma:g} sigma"
        return png(explained(sheet, scales, title=title, flow_scale=FLOW_SCALE, palette=palette))
    encode = {"webm": exports.webm, "gif": exports.gif, "mp4": exports.mp4}[kind]
    pictures = film(
        clip.frames,
        clip.flow,
        clip.relevance,
        clip.masks(),
        flow_scale=FLOW_SCALE,
        title=clip.title,
        selected=f"{clip.parameters.sigma:g} sigma",
        palette=palette,
    )
    return encode(pictures, fps=fps)


def export_figures(url: str, kind: vector_figures.Kind) -> dict[str, bytes]:
    """Draw a finished run's tables and its sweep for a paper.

    Parameters
    ----------
    url : str
        ``<root>/runs/<name>``.
    kind : "pdf" or "svg"
        Format.

    Returns
    -------
    dict of str to bytes
        The files by their names.

    Raises
    ------
    ValueError
        If there is no finished run.
    """
    run = finished_run(url)
    found = {}
    for name, table in views().items():
        # Those that the paper has too; a run of a single method has no agreement.
        if table["paper"] and run.has_table(name):
            shown = shown_table(table, result_rows(run, name), drawn=True)
            found[f"{name}.{kind}"] = vector_figures.table_figure(
                shown["columns"],
                shown["rows"],
                text_columns=shown["text_columns"],
                kind=kind,
                notes=shown["reasons"],
            )
    sweep = overall(result_rows(run, "sweep"))
    found[f"sweep.{kind}"] = vector_figures.sweep_figure(sweep, views()["sweep"]["columns"], kind=kind)
    return found


def _npz(clip: Clip) -> bytes:
    arrays: dict[str, npt.NDArray[Any]] = {"frames": clip.frames, "flow": clip.flow}
    axes = "(time, y, x)"
    meaning = {
        "frames": "pixel value 0..255, (time, y, x, channel), channels R, G, B",
        "flow": "px/frame, (time, y, x, component), components right, down; NaN where unknown",
    }
    for method, mask in clip.masks().items():
        arrays |= {method: clip.relevance[method], f"{method}_selected": mask}
        meaning[method] = f"relevance, 1, {axes}: signed; a deep Taylor cube that starts with one sums to 1"
        meaning[f"{method}_selected"] = f"true where selected, {axes}: selective relevance is 0 elsewhere"
    about: Mapping[str, Any] = {
        "arrays": meaning,
        "clip": clip.about,
        "selective": dataclasses.asdict(clip.parameters),
    }
    return exports.npz(arrays, about)
