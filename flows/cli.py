"""The `selrel` command."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

from flows.exits import BAD_INPUT, EXPLAINED, FAILED, INTERRUPTED, stopped
from flows.serving.interrupts import one_interrupt
from flows.serving.outages import outage

if TYPE_CHECKING:
    from cyclopts import App


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code; what stops a command becomes one line."""

    def leave() -> None:
        # In the middle of an import; what was printed stays printed.
        sys.stdout.flush()
        os._exit(_interrupted())

    with one_interrupt(leave):
        try:
            return _run(arguments)
        except KeyboardInterrupt:
            return _interrupted()
        except (ValueError, OSError) as error:
            return stopped(str(error), BAD_INPUT)
        except RuntimeError as error:
            return stopped(str(error), FAILED)
        except Exception as error:
            if reason := outage(error):
                return stopped(reason, BAD_INPUT)
            raise


def application() -> App:
    """Every command, imported only here, so that a Ctrl-C during the slow imports reaches `main`."""
    from importlib import metadata

    from cyclopts import App

    from flows.commands.compare import compare
    from flows.commands.demo import demo
    from flows.commands.doctor import doctor
    from flows.commands.explain import explain
    from flows.commands.export import export
    from flows.commands.plan import plan
    from flows.commands.report import report
    from flows.commands.runs import runs
    from flows.commands.serve import serve
    from flows.commands.train import train
    from flows.commands.validate import validate
    from flows.commands.verify import verify
    from flows.commands.watch import watch
    from flows.settings import sources

    app = App(
        name="selrel",
        help="Measure how much of the evidence for a video classifier's decisions changes over time, "
        "and where.",
        help_epilogue=f"Try `selrel demo` first. {EXPLAINED}",
        help_format="markdown",
        version=lambda: metadata.version("selrel"),
        # `main` says how to go on.
        suppress_keyboard_interrupt=False,
    )
    for command in (
        compare, demo, doctor, explain, export, plan, report, runs, serve, train, validate, verify, watch,
    ):  # fmt: skip
        app.command(command)
    app.config = sources([name for name in app if not name.startswith("-")])
    return app


def _run(arguments: list[str] | None) -> int:
    from cyclopts import CycloptsError

    from flows.serving.prefect_settings import environment_of_a_command, import_prefect
    from flows.serving.scratch import home_directory
    from flows.terminal import LogFormatter
    from storage.environment import changed_environment

    log = logging.getLogger("selrel")
    shown = logging.StreamHandler()
    shown.setFormatter(LogFormatter())
    log.handlers = [shown]
    log.setLevel(logging.INFO)
    log.propagate = False
    # Dask and Prefect would print a line for every request; what people want to see is ours.
    quiet = {"DASK_LOGGING__DISTRIBUTED": "critical", **os.environ}
    with (
        changed_environment(quiet),
        home_directory() as home,
        changed_environment(environment_of_a_command(home)),
    ):
        if sys.warnoptions:
            sys.warnoptions.clear()
            warnings.resetwarnings()
            for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", category)
        import_prefect()
        try:
            app = application()
            done = app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
        except CycloptsError:
            return BAD_INPUT
        return int(done or 0)


def _interrupted() -> int:
    return stopped("interrupted; the same command goes on where it stopped", INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
