"""What a data set of a million clips costs beside its arithmetic: time and memory of driver and scheduler.

The explanations are stubs: each block looks up its rows of the index, as a real one does, and leaves its
receipt. The driver holds Dask's scheduler, so its memory is that of both. Then what the report's reduction of
the scores takes, for several numbers of clips: its peak memory should be the same.

    python -m tests.benchmarks.scale [CLIPS [SCORED_CLIPS ..]]
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import psutil

from flows.serving.cluster import cluster
from selrel.clips.profiles import View
from selrel.scores import score_clip
from selrel.selective import PRESETS
from storage.runs import Run, write_run
from storage.stores.receipts import Written, write_receipt
from storage.stores.root import Root
from storage.tables import write_table, write_tables
from tasks.clips import clips_of
from tasks.running.blocks import run_stage
from tasks.stages.report import reduced

CLIPS = 1_000_000
SCORED_CLIPS = (50_000, 200_000)
METHODS = ("deep_taylor", "grad_cam", "guided_backprop", "guided_grad_cam")
SIGMAS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
BLOCK_CLIPS = 64
WORKERS = 2
DATASET = "scale"


def main() -> None:
    """Print a line a figure."""
    counts = [int(argument) for argument in sys.argv[1:]]
    measure_stage(counts[0] if counts else CLIPS)
    for clips in counts[1:] or SCORED_CLIPS:
        measure_reduction(clips)


def measure_stage(clips: int) -> None:
    """Print what a stage of stubs costs."""
    with tempfile.TemporaryDirectory(prefix="selrel-scale-") as directory:
        root = Root(directory)
        began = time.perf_counter()
        write_index(root, clips)
        say("index written", f"{time.perf_counter() - began:.1f} s for {clips:,} clips")
        began = time.perf_counter()
        ranges = clips_of(root, DATASET).ranges
        say("index read", f"{time.perf_counter() - began:.1f} s")
        with cluster(WORKERS, threads_per_worker=1) as client:
            work = partial(stub, root, DATASET)
            # Workers import what they need and read the index.
            run_stage("explain", root, root.run("warm"), work, ranges[: 4 * WORKERS])
            with sampled_memory() as samples:
                began = time.perf_counter()
                run_stage("explain", root, root.run("stubbed"), work, ranges)
                seconds = time.perf_counter() - began
            workers = max(client.run(resident).values())
        thousands = len(ranges) / 1000
        say("blocks", f"{len(ranges):,}, {seconds:.0f} s with {WORKERS} workers")
        say("overhead", f"{seconds / thousands:.2f} s for 1,000 blocks")
        say("driver and scheduler", f"peak {max(samples) / 1e6:.0f} MB")
        for share in (0.1, 0.5, 1.0):
            at = max(0, int(share * len(samples)) - 1)
            say(f"  after {share:.0%} of the time", f"{samples[at] / 1e6:.0f} MB")
        early, late = samples[len(samples) // 10], samples[-1]
        say("  growth", f"{(late - early) / 1e6 / (0.9 * thousands):+.2f} MB for 1,000 blocks")
        say("worker", f"{workers / 1e6:.0f} MB, the index of the data set included")


def measure_reduction(clips: int) -> None:
    """Print what it costs to reduce the scores of so many clips to the tables, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="selrel-scale-") as directory:
        root = Root(directory)
        write_index(root, clips)
        write_scores(root)
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            before, peak, seconds = process.submit(reduce_scores, root).result()
    mega = f"peak {peak / 1e6:.0f} MB, {before / 1e6:.0f} MB of it before"
    say("report's reduction", f"{clips:,} clips: {seconds:.0f} s, {mega}")


def reduce_scores(root: Root) -> tuple[int, int, float]:
    """Memory before, peak memory (bytes) and seconds of a report's reduction."""
    began = time.perf_counter()
    with sampled_memory(every=0.02) as samples:
        tables, _ = reduced(Run.of(root, "scored"))
    assert len(tables["sweep"]) == (1 + 101) * len(METHODS) * (1 + len(SIGMAS))
    return samples[0], max(samples), time.perf_counter() - began


def write_scores(root: Root) -> None:
    """Write score rows as the stages do, the same values in every block under the labels of its own clips."""
    paths, clips = root.run("scored"), clips_of(root, DATASET)
    write_run(root, paths, {"settings": {"methods": {method: {} for method in METHODS}}})
    times = pd.DataFrame({"method": METHODS, "seconds_per_clip": 0.1, "warm": True})
    measured = write_tables(root, {"times": (paths.overhead("explain", 0), times)})
    write_receipt(root, paths, "explain", 0, measured)
    scores, agreements = map(pd.DataFrame, scored_clip())
    for block in range(len(clips.ranges)):
        rows = clips.of_block(block)
        tables = {
            "scores": (paths.score(block), labelled(rows, scores)),
            "agreements": (paths.agreement(block), labelled(rows, agreements)),
        }
        write_receipt(root, paths, "score", block, write_tables(root, tables))


def scored_clip() -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """The rows of one clip, with all true columns."""
    random, shape = np.random.default_rng(0), (4, 16, 16)
    cubes = {method: random.normal(size=shape).astype(np.float32) for method in METHODS}
    flow = random.normal(size=(*shape, 2)).astype(np.float32)
    return score_clip(cubes, flow, len(flow), sigmas=SIGMAS, parameters=PRESETS["default"])


def labelled(clips: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one clip for each of these clips, under their labels."""
    labels = clips[["clip", "video", "class", "group"]]
    return labels.merge(rows, how="cross")


def write_index(root: Root, clips: int) -> None:
    """Write the index of a data set of videos with 8 clips each."""
    video = np.arange(clips) // 8
    names = np.array([_video(number) for number in range(video[-1] + 1)])
    table = pd.DataFrame({"clip": np.arange(clips), "video": names[video]}).assign(
        label=video % 101,
        group=np.char.mod("g%02d", video // 101 % 25),
        split="test",
        start_frame=16 * (np.arange(clips) % 8),
        n_valid_frames=16,
        fps=25.0,
        n_frames=128,
    )
    table["class"] = np.char.mod("Class%03d", table.label)
    paths = root.dataset(DATASET)
    view = View((171, 128), (112, 112)).as_dict()
    description = {"classes": [f"Class{c:03}" for c in range(101)], "view": view, "block_clips": BLOCK_CLIPS}
    root.write_json(paths.description, {**description, "videos": []})
    write_table(root, paths.index, table)


def _video(number: int) -> str:
    name = f"Class{number % 101:03}"
    return f"{name}/v_{name}_g{number // 101 % 25:02}_c{number:07}.avi"


def stub(root: Root, dataset_id: str, block: int) -> Written:
    """A block without its arithmetic."""
    rows = clips_of(root, dataset_id).of_block(block)
    return Written(sha256={"clips": str(int(rows["clip"].sum()))})


def resident() -> int:
    """Bytes of memory of the process that calls this."""
    return int(psutil.Process().memory_info().rss)


@contextmanager
def sampled_memory(every: float = 0.25) -> Iterator[list[int]]:
    """Note this process's memory again and again."""
    samples, stop = [resident()], threading.Event()

    def sample() -> None:
        while not stop.wait(every):
            samples.append(resident())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def say(what: str, value: str) -> None:
    """Print one figure."""
    print(f"{what:24} {value}", flush=True)


if __name__ == "__main__":
    main()
