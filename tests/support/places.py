"""Where tests run, and what may be missing there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]


def unavailable(reason: str) -> NoReturn:
    """Skip a test whose surroundings cannot be had here; a failure with REQUIRED=1, so that nobody is deceived."""
    if os.environ.get("REQUIRED") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
