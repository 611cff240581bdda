"""The `selrel` command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

from cyclopts import App, CycloptsError

from flows.commands.demo import demo
from flows.commands.explain import explain
from flows.commands.report import report
from flows.commands.runs import runs
from flows.commands.train import train

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

app = App(
    name="selrel",
    help="Measure how much of a video classifier's decision rests on motion, and see where.",
    help_epilogue="Try `selrel demo` first. Exit codes: 0 done, 1 failed (`selrel explain` goes on where it "
    "stopped), 2 bad input, 130 interrupted.",
    help_format="markdown",
    version=lambda: metadata.version("selrel"),
    # Ours says how to go on.
    suppress_keyboard_interrupt=False,
)

for _command in (demo, explain, report, runs, train):
    app.command(_command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    # Prefect and Dask would print a line for every request; what people want to see is ours.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    log = logging.getLogger("selrel")
    log.handlers = [logging.StreamHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
    return _guarded(
        lambda: app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    )


def _guarded(command: Callable[[], Any]) -> int:
    """Turn what stops a command into one line and an exit code."""
    try:
        return int(command() or 0)
    except CycloptsError:
        return BAD_INPUT
    except KeyboardInterrupt:
        return _stopped("interrupted; `selrel explain` goes on where it stopped, start it again", INTERRUPTED)
    except (ValueError, OSError) as error:
        return _stopped(str(error), BAD_INPUT)
    except RuntimeError as error:
        return _stopped(str(error), FAILED)
    except Exception as error:
        # S3's library is slow to import, and its errors share no base with Python's own.
        if type(error).__module__.startswith(("botocore.", "aiobotocore.")):
            return _stopped(f"S3: {error}; check bucket, endpoint and credentials", BAD_INPUT)
        raise


def _stopped(reason: str, code: int) -> int:
    print(f"selrel: {' '.join(reason.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
