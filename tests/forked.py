"""A command line in a forked process that can be killed: what the tests have imported is not imported once more.

A killed process leaves nothing but files. That another, fresh process goes on from them is for the caller to show.
Forking wants one thread and no GPU, as `make test` has it.
"""

import os
import signal
import time
from collections.abc import Callable

from holdfast.cli import run


def killed_when(ready: Callable[[], bool], arguments: list[str], patience_seconds: float = 240) -> None:
    """Begin the command and kill it as soon as ``ready()``; one that ends before fails the test."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            run(arguments)
        finally:
            os._exit(1)
    deadline = time.monotonic() + patience_seconds
    while not ready() and time.monotonic() < deadline:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the command ended too early"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert ready(), "the command never came as far"
