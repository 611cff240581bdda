"""Played: the discriminative method on some of the clips that the report plays.

It takes ten times what the other methods take together, so by default a whole data set does without.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from selrel.explain import beside
from storage.arrays.cubes import encode, read_block, write_block
from storage.runs import Run
from storage.stores.receipts import Written
from storage.tables import read_table, write_tables
from tasks.running.blocks import done_blocks
from tasks.running.effort import arithmetic
from tasks.running.stage import Once, Stage, Work
from tasks.shown import shown
from tasks.stages.explain import model_of, outputs, stored_frames
from tasks.stages.score import STAGE as SCORE

METHOD = "discriminative"
Array = npt.NDArray[np.float16] | npt.NDArray[np.float32]


def play_block(work: Work, block: int) -> Written:
    """Explain and write the chosen clips of one block; all others stay unknown."""
    start, stop = work.clips.ranges[block]
    clips = read_table(work.place, work.paths.played)["clip"].to_numpy()
    chosen = [int(clip) for clip in clips if start <= clip < stop]
    if not chosen:
        return Written()
    explainer, of_label = model_of(work).explainer, outputs(work, model_of(work))
    shape = (stop - start, *work.clips.shape)
    names = {METHOD: None, **{f"{METHOD}_{what}": axes for what, axes in beside(METHOD).items()}}
    arrays: dict[str, Array] = {}
    for name, axes in names.items():
        if axes is None or axes[-1] == "x":
            arrays[name] = np.zeros(shape, np.float16)
            arrays[f"{name}_scale"] = np.full(stop - start, np.nan, np.float32)
        else:
            sizes = [work.clips.axes[axis] for axis in axes[1:]]
            arrays[name] = np.full((stop - start, *sizes), np.nan, np.float32)
    for clip in chosen:
        (target,) = read_block(work.place, work.paths.relevance, clip, clip + 1, ["target"])["target"]
        frames = stored_frames(work, clip, clip + 1)
        with arithmetic():
            # One by one: which clips share a block must change no bit.
            found = explainer.explain(frames, {METHOD: {}}, targets=torch.tensor([of_label[target]]))
        for name, values in {**found.cubes, **found.beside}.items():
            own = values.cpu().numpy()
            if f"{name}_scale" in arrays:
                cube, scale = encode(own)
                arrays[name][clip - start], arrays[f"{name}_scale"][clip - start] = cube[0], scale[0]
            else:
                arrays[name][clip - start] = own[0][..., of_label]
    return write_block(work.place, work.paths.relevance, start, arrays)


def _choose(work: Work) -> Written:
    """Choose the clips, once all that can be scored are."""
    run, clips = Run(work.place, work.paths), work.clips
    done = done_blocks(work.place, work.paths, SCORE.name, len(clips.ranges))
    tables = []
    for block in sorted(done):
        start, stop = clips.ranges[block]
        said = read_block(work.place, work.paths.relevance, start, stop, ["predicted"], axes=clips.axes)
        rows = clips.of_block(block)
        tables.append(rows.assign(correct=said["predicted"] == rows.label.to_numpy()))
    chosen = shown(run, pd.concat(tables)).first(work.settings["played"]) if tables else []
    table = pd.DataFrame({"clip": np.array(chosen, np.int64)})
    return write_tables(work.place, {"played": (work.paths.played, table)})


STAGE: Stage = Stage(
    name="played",
    of="run",
    block=play_block,
    needs=(SCORE,),
    before=Once("chosen", _choose),
    asked=lambda settings: settings.get("played", 0) > 0 and METHOD not in settings["methods"],
    at_most=lambda settings: int(settings["played"]),
    # Which clips it holds depends on what all the others gave.
    is_result=False,
)
