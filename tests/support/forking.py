"""Processes forked from a server that has imported everything, so that one starts in milliseconds.

The server, and what it forks, has the environment of the test that started it, whichever that was; a process of ours
takes that of the test that starts the process.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "support.rlaunching",
        "fireworks.scripts.rlaunch_run",
        "scdm_flows.engines.vasp.makers",
        "scdm_flows.execution.fireworks.worker",
    ]
)


def process_of(target: Callable[..., None], *arguments: Any) -> Any:
    """A process, not yet started, that calls ``target(*arguments)`` in the environment of this moment."""
    return CONTEXT.Process(target=_within, args=(dict(os.environ), target, *arguments))


def _within(environment: dict[str, str], target: Callable[..., None], *arguments: Any) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)
