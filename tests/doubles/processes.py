"""Processes that tests start, and how they end."""

import subprocess
from typing import Any


def end(child: subprocess.Popen[Any], patience_s: float = 60.0) -> None:
    """Tell a process to end, and kill it where it does not: Prefect's worker may sit still for minutes."""
    child.terminate()
    try:
        child.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
