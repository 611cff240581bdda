"""Identity: the code that a result follows from, and nothing else.

A data set or a run is another one when code in these folders changes. A word in a page, a command or a server
changes no result, and no finished run becomes another one for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from tasks.stages import STAGES
from tasks.versions import HERE, hash_of_sources

# What reads videos, cuts them into clips, and finds what moves in them.
_PIXELS = ("selrel/clips", "storage/arrays", "storage/videos")
# What explains them, and scores the explanations.
_RESULTS = (
    *_PIXELS,
    "selrel/engine", "selrel/explain", "selrel/explainer.py", "selrel/models", "selrel/scores",
    "selrel/selective.py", "tasks/stages",
)  # fmt: skip


@cache
def code_of_data_sets() -> str:
    """A hash of the sources that a data set's frames and flow follow from."""
    stages = (stage.block.__module__ for stage in STAGES if stage.of == "dataset")
    return hash_of_sources({*_sources(_PIXELS), *(f"{name.replace('.', '/')}.py" for name in stages)})


@cache
def code_of_runs() -> str:
    """A hash of the sources that a run's results follow from."""
    return hash_of_sources(_sources(_RESULTS))


def _sources(places: tuple[str, ...]) -> Iterator[str]:
    for place in places:
        here = HERE / place
        for file in [here] if here.is_file() else here.rglob("*.py"):
            yield file.relative_to(HERE).as_posix()
