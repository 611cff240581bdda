"""What several commands say about their arguments."""

from __future__ import annotations

from typing import Any

from cyclopts import Parameter

Several = Parameter(consume_multiple=True, negative_iterable=())


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The values that were given."""
    return {name: value for name, value in values.items() if value is not None}
