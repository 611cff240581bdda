"""The exit codes of `selrel`, and how a command says why it stopped."""

from __future__ import annotations

import sys

from storage.text import visible

FAILED, BAD_INPUT, EXCLUDED, GATE, INTERRUPTED = 1, 2, 3, 4, 130

EXPLAINED = (
    "Exit codes: 0 done; 1 failed (the same command goes on where it stopped) or damage found; 2 bad input; "
    "3 done, but with blocks left out that failed; 4 the motion reliance fell by more than --max-drop; "
    "130 interrupted."
)


def stopped(reason: str, code: int) -> int:
    """Say in one line on standard error why a command stopped, and give its exit code."""
    print(f"selrel: {visible(' '.join(reason.split()))}", file=sys.stderr)
    return code
