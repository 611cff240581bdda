"""What a process has started ends with it, whatever session its children moved to."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from tests.processes import family, wait_until_gone

PARENT = """
    import os, subprocess, sys, time
    from flows.serving.keeper import MARK, keeper

    # A child in a session of its own, whose own child ignores SIGTERM.
    CHILD = (
        "import subprocess, sys;"
        "subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)"
    )
    STUBBORN = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('up', flush=True); time.sleep(60)"
    )

    with keeper() as mark:
        environment = {**os.environ, MARK: f"{mark}.child"}
        subprocess.Popen([sys.executable, "-c", CHILD, STUBBORN], env=environment, start_new_session=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("received", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.slow
def test_everything_ends_with_the_parent(received: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(PARENT)], stdout=subprocess.PIPE)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        processes = family(parent.pid)
        # The parent, its keeper, the child and the grandchild.
        assert len(processes) == 4
        parent.send_signal(received)
        assert wait_until_gone(processes, timeout=40) == []
        assert bystander.poll() is None
    finally:
        for process in (parent, bystander):
            process.kill()
            process.wait()
