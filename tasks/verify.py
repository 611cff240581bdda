"""Verify: reads a run and its data set again, and compares every byte with the receipts."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from storage.datasets.fingerprints import sha256_of
from storage.datasets.ucf101 import video_path
from storage.layout import DatasetPaths, RunPaths
from storage.runs import Run, is_finished, read_run, read_summary
from storage.stores.receipts import LINK, HasReceipts, blocks_done, damages, discard, is_sealed
from storage.stores.root import MAX_JSON_BYTES, Root, UnreadableFile
from tasks.clips import clips_of, videos_of
from tasks.running.effort import effort_damage
from tasks.stages import STAGES
from tasks.stages.index import STAGE as INDEX
from tasks.stages.index import video_blocks
from tasks.stages.report import RECEIPT, results_hash

# In threads, requests to S3 overlap, and hashing releases Python's lock.
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
    kept : list of str
        A line for everything damaged that a repair can't drop, such as a directory in the place of a file.
    videos : str
        A line on videos that are not what was decoded, or not there: no damage, since the run stands on the
        frames that it stored. Empty if they are all the same.
    """

    clips: int = 0
    receipts: int = 0
    left_out: int = 0
    finished: bool = True
    damaged: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
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
    # A link to another run is refused here, before any file of that run is touched.
    root.link_on(paths.run_json)
    found = Verification(finished=is_finished(root, paths))
    summary = _summary(root, paths, found)
    dataset, fault = _dataset(root, paths, summary)
    pieces = _pieces(root, paths, dataset, summary, found)
    efforts = [
        f"{where.efforts}/{name}"
        for where in (paths, dataset)
        if where is not None
        for name in root.listdir(where.efforts)
    ]
    with ThreadPoolExecutor(_READERS) as readers:
        damage_of = list(readers.map(lambda piece: damages(root, *piece), pieces))
        records = list(readers.map(lambda path: _record_damage(root, path), efforts))
    every = {path: what for damage in (*damage_of, *records) for path, what in damage.items()}
    if fault and paths.run_json not in every:
        found.damaged.append(fault)
    found.damaged += [f"{root.join(path)} {what}" for path, what in every.items()]
    found.videos = _videos(root, paths)
    found.receipts, found.left_out = len(pieces), len(summary.get("left_out_blocks", []))
    if summary and not found.damaged and results_hash(Run(root, paths)) != summary["results_sha256"]:
        found.damaged.append(f"{root.join(paths.success)} belongs to other results than the receipts")
    if repair and (found.damaged or found.left_out):
        # First: a run half repaired must not look finished.
        root.delete(paths.success)
        drops = [
            partial(discard, root, *piece, damage)
            for piece, damage in zip(pieces, damage_of, strict=True)
            if damage
        ]
        drops += [partial(root.delete, path) for record in records for path in record]
        for drop in drops:
            try:
                drop()
            except OSError as error:
                if not error.filename:
                    raise
                why = f"can't be dropped ({error.strerror}): remove it yourself, then repair again"
                found.kept.append(f"{error.filename} {why}")
    return found


def _videos(root: Root, paths: RunPaths) -> str:
    """Say which of a run's videos are not what they were; empty where that can't be told."""
    try:
        description = read_run(root, paths)
        data, videos = str(description["data"]), videos_of(root, description["dataset_id"])
    except (FileNotFoundError, UnreadableFile, ValueError, KeyError):
        # Reported as damage elsewhere.
        return ""
    # Data sets of older versions hold sizes instead of hashes.
    planned = {video[0]: str(video[6]) for video in videos if len(video) > 6}
    if planned and not os.path.isdir(data):
        return f"Its videos are not at {data} here, so nothing is said about them."

    def is_same(name: str) -> bool:
        try:
            return sha256_of({name: video_path(data, name)})[name] == planned[name]
        except (OSError, ValueError):
            return False

    with ThreadPoolExecutor(_READERS) as readers:
        same = readers.map(is_same, planned)
        others = [name for name, sound in zip(planned, same, strict=True) if not sound]
    if not others:
        return ""
    some = ", ".join(others[:_NAMED]) + (", .." if len(others) > _NAMED else "")
    return (
        f"Changed or gone since: {len(others):,} of its {len(planned):,} videos in {data} ({some}). That is"
        " no damage: the run stands on the frames that it stored. The same command now makes another run."
    )


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


def _dataset(root: Root, paths: RunPaths, summary: dict[str, Any]) -> tuple[DatasetPaths | None, str]:
    """The run's data set, also where run.json is damaged (None: nothing says which), and what is wrong."""
    fault = ""
    named = [summary.get("dataset_id")]
    try:
        named.insert(0, read_run(root, paths)["dataset_id"])
    except (FileNotFoundError, UnreadableFile, ValueError) as error:
        fault = str(error)
        # A damaged description may still mention it.
        with suppress(FileNotFoundError, UnreadableFile, ValueError):
            text = root.read_bytes(paths.run_json, most=MAX_JSON_BYTES)
            if mentioned := re.search(rb'"dataset_id": "([A-Za-z0-9_-]+)"', text):
                named.append(mentioned[1].decode())
    for name in filter(None, named):
        dataset = root.dataset(name)
        if not root.exists(dataset.directory):
            continue
        try:
            root.link_on(dataset.description)
        except UnreadableFile as error:
            return None, fault or str(error)
        return dataset, fault
    return None, fault or f"{root.join(paths.run_json)} names a data set that is not there: {named[0]}"


def _pieces(
    root: Root,
    paths: RunPaths,
    dataset: DatasetPaths | None,
    summary: dict[str, Any],
    found: Verification,
) -> list[_Piece]:
    """Everything that must have a receipt, or has one, in the run and in its data set."""
    whole: list[tuple[HasReceipts, str]] = [(paths, RECEIPT)]
    in_blocks: list[tuple[HasReceipts, str]] = []
    settings = _settings(root, paths)
    for stage in STAGES:
        if stage.of == "run" or dataset is not None:
            where = paths if stage.of == "run" or dataset is None else dataset
            (whole if stage.asked(settings) else in_blocks).extend((where, name) for name in stage.made_once)
            in_blocks.append((where, stage.name))
    # A run that left blocks out, or is not finished, lacks some; those that are there must be sound.
    there = [(where, name, n) for where, name in (*whole, *in_blocks) for n in blocks_done(root, where, name)]
    needed: list[_Piece] = [(where, name, 0) for where, name in whole] if summary else []
    if dataset is not None:
        needed += _blocks(root, paths, dataset, summary, found)
    return list(dict.fromkeys([*needed, *there]))


def _blocks(
    root: Root, paths: RunPaths, dataset: DatasetPaths, summary: dict[str, Any], found: Verification
) -> list[_Piece]:
    """The blocks that a finished run is made of."""
    dataset_id = dataset.directory.rpartition("/")[2]
    try:
        n_counted = len(video_blocks(videos_of(root, dataset_id)))
        clips = clips_of(root, dataset_id)
    except (FileNotFoundError, UnreadableFile, ValueError) as error:
        # A start that ended early left no index; the next one writes it.
        of_run = [stage for stage in STAGES if stage.of == "run"]
        begun = found.finished or any(blocks_done(root, paths, stage.name) for stage in of_run)
        if begun or not isinstance(error, FileNotFoundError):
            found.damaged.append(f"{root.join(paths.directory)}: its blocks can't be listed: {error}")
        return []
    found.clips = len(clips.table)
    if not summary:
        return []
    blocks = sorted(set(range(len(clips.ranges))) - set(summary.get("left_out_blocks", [])))
    settings = _settings(root, paths)
    return [
        (stage.where(paths, dataset), stage.name, block)
        for stage in STAGES
        if stage.asked(settings)
        for block in (range(n_counted) if stage is INDEX else blocks)
    ]


def _settings(root: Root, paths: RunPaths) -> dict[str, Any]:
    """What the run was asked for; nothing where run.json, which is told as damaged, does not say it."""
    try:
        settings: dict[str, Any] = read_run(root, paths)["settings"]
        return settings
    except (FileNotFoundError, UnreadableFile, ValueError):
        return {}


def _record_damage(root: Root, path: str) -> dict[str, str]:
    if link := root.link_on(path):
        return {link: LINK}
    what = effort_damage(root, path)
    return {path: what} if what else {}
