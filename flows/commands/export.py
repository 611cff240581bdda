"""`selrel export`: a clip of a run as a file to show or to compute with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Literal

from flows.commands.arguments import Several

if TYPE_CHECKING:
    from storage.layout import Root


def export(
    run: str,
    *,
    clip: int,
    format: Literal["webm", "gif", "mp4", "png", "npz"] = "webm",
    method: Annotated[list[str] | None, Several] = None,
    sigma: float = 2.0,
    fps: float = 8.0,
    palette: Literal["red-blue", "orange-purple"] = "red-blue",
    output: str | None = None,
) -> None:
    """Write one clip of a finished run to a file.

    A film (`webm`, `gif`, `mp4`) shows input, flow, baseline and selective relevance side by side; `png` is
    a contact sheet; `npz` holds the arrays in real units.

    Example: `selrel export results/runs/c3d-1bf523994dd872e1 --clip 12 --format gif`

    Parameters
    ----------
    run
        Where the run lies, as `selrel runs` lists it.
    clip
        The clip's number, as the report and `tables/clips.parquet` give it.
    format
        Kind of file; `mp4` needs the extra of that name.
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
    from storage.layout import run_at
    from tasks.export import export_clip, main_method, read_clip

    place, name = _place(output or f"{run_at(run)[1].name}-clip-{clip}.{format}")
    methods = method or (None if format in ("png", "npz") else [main_method(run)])
    found = read_clip(run, clip, methods=methods, sigma=sigma)
    data = export_clip(found, format, fps=fps, palette=palette)
    place.write_bytes(name, data)
    print(f"{found.title}\n{place.join(name)}, {len(data):,} bytes")


def _place(path: str) -> tuple[Root, str]:
    from storage.layout import Root

    directory, name = os.path.split(path)
    if not name:
        raise ValueError(f"--output {path!r} names a directory; give a file in it")
    return Root(directory or os.curdir), name
