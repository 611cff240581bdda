"""The pages that people read: README, CONTRIBUTING, CHANGELOG and docs/, and the code in them."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def pages() -> dict[str, str]:
    """Each page's text, by its path in the repository."""
    found = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    found += sorted((REPOSITORY / "docs").rglob("*.md"))
    return {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in found}


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code in one language."""
    return [block for name, block in FENCE.findall(text) if name == language]
