"""How figures are drawn: as matplotlib does by itself, and never by a user's file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib


@contextmanager
def own_style(changed: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Draw in matplotlib's own style, but for the parameters in `changed`.

    A `matplotlibrc`, of the user or of the working directory, would change every figure.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(changed or {})
        yield
