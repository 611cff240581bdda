"""What Prefect does when a task fails: try again what may pass by itself, and nothing else."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]


def _may_pass(task: Any, task_run: Any, state: Any) -> bool:
    """Whether a failure came from the network or a store; bad input stays bad however often it is read."""
    try:
        state.result()
    except (ConnectionError, TimeoutError, BotoCoreError, ClientError):
        return True
    except Exception:
        return False
    return False


RETRY: dict[str, Any] = {"retries": 3, "retry_delay_seconds": [5, 20, 60], "retry_condition_fn": _may_pass}
