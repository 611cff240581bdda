"""`selrel export`: a clip of a run as a file to show or to compute with."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from flows.commands.arguments import Several
from flows.terminal import Console

Format = Literal["webm", "gif", "mp4", "png", "npz", "pdf", "svg"]


def export(
    run: str,
    *,
    root: str | None = None,
    clip: int | None = None,
    figures: str | None = None,
    format: Format | None = None,
    method: Annotated[list[str] | None, Several] = None,
    sigma: float = 2.0,
    fps: float = 8.0,
    palette: Literal["red-blue", "orange-purple"] = "red-blue",
    output: str | None = None,
) -> None:
    """Write one clip of a finished run to a file, or its tables and its sweep as figures for a paper.

    A film (`webm`, `gif`, `mp4`) shows input, flow, baseline and selective relevance side by side; `png` is
    a contact sheet; `npz` holds the arrays in real units.

    Example: `selrel export results/runs/c3d-1bf523994dd872e1 --clip 12 --format gif`

    Example: `selrel export results/runs/c3d-1bf523994dd872e1 --figures figures --format svg`

    Parameters
    ----------
    run
        Where the run lies, as `selrel runs` lists it; with `--root` also its name, or `latest`.
    root
        Directory or `s3://bucket/prefix` of a run that is given by its name.
    clip
        The clip's number, as the report says below its tabs and `tables/clips.parquet` lists it.
    figures
        Directory, also `s3://bucket/prefix`, for the tables and the sweep as vector figures.
    format
        Kind of file: `webm` (the default), `gif`, `mp4`, `png` or `npz` of a clip, `pdf` (the default)
        or `svg` of figures.
    method
        Explanations; by default deep Taylor in a film, and all of the run in a sheet and an `npz`.
    sigma
        Threshold of the selective step in standard deviations.
    fps
        Frames per second of a film; the clip's own rate would be over in half a second.
    palette
        Colours of positive and negative relevance; orange and purple survive greyscale print.
    output
        File to write, also `s3://bucket/file`; `<run>-clip-<number>.<format>` here by default.
    """
    from storage.runs import find_run
    from storage.stores.root import Root, run_at
    from storage.text import visible
    from tasks.export import export_clip, export_figures, method_of_film, read_clip

    if (clip is None) == (figures is None):
        raise ValueError("give either --clip NUMBER or --figures DIRECTORY")
    run = find_run(run, root)
    if figures is not None:
        kind = format or "pdf"
        if kind != "pdf" and kind != "svg":
            raise ValueError(f"figures can't be {kind}: give --format pdf or svg")
        place = Root(figures)
        for name, data in export_figures(run, kind).items():
            place.write_bytes(name, data)
            Console().print(f"{place.join(name)}, {len(data):,} bytes", soft_wrap=True)
        return
    kind = format or "webm"
    if clip is None or kind == "pdf" or kind == "svg":
        raise ValueError(f"a clip can't be {kind}: give --format webm, gif, mp4, png or npz")
    directory, name = os.path.split(output or f"{run_at(run)[1].name}-clip-{clip}.{kind}")
    if not name:
        raise ValueError(f"--output {output!r} names a directory; give a file in it")
    place = Root(directory or os.curdir)
    methods = method or (None if kind in ("png", "npz") else [method_of_film(run)])
    found = read_clip(run, clip, methods=methods, sigma=sigma)
    data = export_clip(found, kind, fps=fps, palette=palette)
    place.write_bytes(name, data)
    shown = visible(found.title), f"{place.join(name)}, {len(data):,} bytes"
    Console().print(*shown, sep="\n", soft_wrap=True)
