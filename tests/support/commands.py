"""``scdm`` called in this process, as a shell would call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from scdm_flows.cli import cli
from scdm_flows.cli.common import run


def commands(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """A function of the arguments and the exit code that is expected (0 where none is given).

    It returns what was said: the errors where the code is not 0, what ``--json`` holds, or the text.
    """

    def command(*arguments: str, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as stop:
            run(cli, list(arguments))
        captured = capsys.readouterr()
        assert int(stop.value.code or 0) == code, captured.err
        return captured.err if code else json.loads(captured.out) if "--json" in arguments else captured.out

    return command
