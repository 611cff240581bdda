"""Puts the faults of `tests.faults` into a worker as it imports the module that does the blocks.

Python imports this at its start where the directory is in PYTHONPATH.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Faults:
    """Finds `tasks.running.blocks` as it is found without, and has it changed once it is loaded."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "tasks.running.blocks":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            from tests.faults import put_in_place

            put_in_place(module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


# As a spawned process is started.
if any("multiprocessing.spawn" in argument for argument in sys.orig_argv):
    sys.meta_path.insert(0, _Faults())  # type: ignore[arg-type]
