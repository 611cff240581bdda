"""What a data set of a million clips costs beside its arithmetic: time and memory of driver and scheduler.

The explanations are stubs: each block looks up its rows of the index, as a real one does, and leaves its
receipt. The driver holds Dask's scheduler, so its memory is that of both.

    python -m tests.benchmarks.scale [CLIPS]
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pandas as pd
import psutil

from flows.cluster import cluster
from selrel.profiles import View
from storage.layout import Root
from storage.receipts import Written
from storage.tables import write_table
from tasks.clips import clips_of
from tasks.stages import run_stage

CLIPS = 1_000_000
BLOCK_CLIPS = 64
WORKERS = 2
DATASET = "scale"


def main() -> None:
    """Print a line a figure."""
    clips = int(sys.argv[1]) if len(sys.argv) > 1 else CLIPS
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
