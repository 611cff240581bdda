"""Verify: reads a run and its data set again, and compares every byte with the receipts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from storage.fingerprints import sha256_of
from storage.layout import RunPaths
from storage.receipts import HasReceipts, count_receipts, damages, discard, is_sealed
from storage.root import Root, UnreadableFile
from storage.runs import is_finished, read_run, read_summary
from storage.ucf101 import video_path
from tasks.clips import clips_of, videos_of
from tasks.index import video_blocks
from tasks.report import results_hash

# Requests to S3 wait for each other less, and hashing leaves Python's lock.
_READERS = 8
# Videos that a line names.
_NAMED = 5

_Piece = tuple[HasReceipts, str, int]


@dataclass
class Verification:
    """What reading a run again has shown.

    Attributes
    ----------
    clips, receipts : int
        How much was compared.
    left_out : int
        Blocks that the run ended without, since they killed their workers or need one that did.
    finished : bool
        Whether the run has its success marker. Without it, only what has a receipt was compared.
    damaged : list of str
        A line for everything that is not as it was written.
    videos : str
        A line on videos that are not what was decoded, or not there: no damage, since the run stands on the
        frames that it stored. Empty if they are all the same.
    """

    clips: int = 0
    receipts: int = 0
    left_out: int = 0
    finished: bool = True
    damaged: list[str] = field(default_factory=list)
    videos: str = ""


def verify_run(root: Root, paths: RunPaths, *, repair: bool = False) -> Verification:
    """Compare everything that belongs to a run, or is there of an unfinished one, with its receipts.

    Parameters
    ----------
    root, paths
        Where the run lies.
    repair : bool
        Take the run's success marker away, and what is damaged with its receipts, so that the run is
        unfinished and the command that made it redoes just that, and tries blocks that were left out again.

    Raises
    ------
    FileNotFoundError
        If there is no such run.
    """
    if not root.exists(paths.directory):
        raise FileNotFoundError(
            f"no run at {root.join(paths.directory)}: `selrel runs --root {root}` lists them"
        )
    found = Verification(finished=is_finished(root, paths))
    summary = _summary(root, paths, found)
    pieces = [piece for piece in _pieces(root, paths, found) if _belongs(root, piece, summary)]
    with ThreadPoolExecutor(_READERS) as readers:
        damage_of = list(readers.map(lambda piece: damages(root, *piece), pieces))
    found.damaged += [f"{root.join(path)} {what}" for damage in damage_of for path, what in damage.items()]
    found.videos = _videos(root, paths)
    found.receipts, found.left_out = len(pieces), len(summary.get("left_out_blocks", []))
    if summary and not found.damaged and results_hash(root, paths.name) != summary["results_sha256"]:
        found.damaged.append(f"{root.join(paths.success)} belongs to other results than the receipts")
    if repair and (found.damaged or found.left_out):
        # First: a run half repaired must not look finished.
        root.delete(paths.success)
        _discard(root, zip(pieces, damage_of, strict=True))
    return found


def _discard(root: Root, looked_at: Iterable[tuple[_Piece, dict[str, str]]]) -> None:
    for piece, damage in looked_at:
        if damage:
            discard(root, *piece, damage)


def _videos(root: Root, paths: RunPaths) -> str:
    """Say which of a run's videos are not what they were; nothing where nobody can tell."""
    try:
        description = read_run(root, paths)
        data, videos = str(description["data"]), videos_of(root, description["dataset_id"])
    except (FileNotFoundError, UnreadableFile, ValueError, KeyError):
        # Told as damage.
        return ""
    # Data sets of older versions hold sizes instead of hashes.
    planned = {video[0]: str(video[6]) for video in videos if len(video) > 6}
    if planned and not os.path.isdir(data):
        return f"Its videos are not at {data} here, so nothing is said about them."
    with ThreadPoolExecutor(_READERS) as readers:
        same = readers.map(lambda name: _is_same(data, name, planned[name]), planned)
        others = [name for name, sound in zip(planned, same, strict=True) if not sound]
    if not others:
        return ""
    # Names come from a store: what is no name of a video is shown as nothing else.
    shown = [name if name.isprintable() else ascii(name) for name in others[:_NAMED]]
    some = ", ".join(shown) + (", .." if len(others) > _NAMED else "")
    return (
        f"{len(others):,} of its {len(planned):,} videos in {data} changed or went since ({some}). That is no"
        " damage: the run stands on the frames that it stored. The same command now makes another run."
    )


def _is_same(data: str, name: str, sha256: str) -> bool:
    try:
        path = video_path(data, name)
        return sha256_of({name: path})[name] == sha256
    except (OSError, ValueError):
        return False


def _summary(root: Root, paths: RunPaths, found: Verification) -> dict[str, Any]:
    if not found.finished:
        return {}
    try:
        if not is_sealed(root.read_json(paths.success)):
            raise ValueError(f"{root.join(paths.success)} was changed, or is of selrel's first version")
        return read_summary(root, paths)
    except (ValueError, UnreadableFile) as error:
        found.damaged.append(str(error))
        return {}


def _pieces(root: Root, paths: RunPaths, found: Verification) -> list[_Piece]:
    """Everything that has a receipt, in the run and in its data set."""
    pieces: list[_Piece] = [(paths, stage, 0) for stage in ("relevance", "report")]
    try:
        dataset_id = read_run(root, paths)["dataset_id"]
        dataset = root.dataset(dataset_id)
        pieces += [(dataset, stage, 0) for stage in ("dataset", "frames", "flow")]
        pieces += [(dataset, "index", b) for b in range(len(video_blocks(videos_of(root, dataset_id))))]
        clips = clips_of(root, dataset_id)
    except (FileNotFoundError, UnreadableFile, ValueError, KeyError) as error:
        # A start that ended early left no index; the next one writes it.
        begun = found.finished or count_receipts(root, paths, "explain") > 0
        if isinstance(error, FileNotFoundError) and not begun:
            return pieces
        found.damaged.append(f"{root.join(paths.directory)}: its blocks can't be listed: {error}")
        return pieces
    found.clips = len(clips.table)
    blocks = range(len(clips.ranges))
    stages = ((dataset, "decode"), (dataset, "motion"), (paths, "explain"), (paths, "score"))
    return pieces + [(where, stage, block) for where, stage in stages for block in blocks]


def _belongs(root: Root, piece: _Piece, summary: dict[str, Any]) -> bool:
    """Whether a receipt must be there, or is: a run that left blocks out, or is not finished, lacks some."""
    where, stage, block = piece
    of_clips = stage in ("decode", "motion", "explain", "score")
    required = bool(summary) and not (of_clips and block in summary["left_out_blocks"])
    return required or root.exists(where.receipts(stage, block))
