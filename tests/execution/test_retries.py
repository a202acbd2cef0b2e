"""Which failures are tried again, when, and which are given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from scdm_flows.config.settings import ScdmSettings, get_settings
from scdm_flows.errors import ConfigError, EngineError, StoreError
from scdm_flows.execution.fireworks.retries import (
    PARDON,
    Failure,
    StageError,
    Trouble,
    failure_of,
    failures_of,
    judge,
    lost_action,
    trouble_of,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _failed(trouble: Trouble | None, number: int = 1) -> Failure:
    return Failure("E", "it failed", trouble, NOW, number)


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (AutoReconnect("gone"), Trouble.DATABASE),
        (StoreError("gone"), Trouble.DATABASE),
        (MemoryError(), Trouble.MEMORY),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), Trouble.MEMORY),
        (BlockingIOError("busy"), Trouble.SYSTEM),
        (_caused(RuntimeError("no"), ConnectionResetError("gone")), Trouble.SYSTEM),
        (RuntimeError("unconverged"), None),
        (EngineError("no such element"), None),
        (KeyError("blob"), None),
    ],
)
def test_what_is_no_fault_of_the_job(error: Exception, trouble: Trouble | None) -> None:
    assert trouble_of(error) is trouble
    # and after the way through the database
    stored = {"_exception": {"_stacktrace": "x", "_details": StageError(error).to_dict()}}
    launch = {"launch_id": 3, "action": {"stored_data": stored}, "state_history": []}
    assert failure_of(launch).trouble is trouble
    assert failure_of(launch).error_type == type(error).__name__


def test_a_failure_of_fireworks_itself_is_read_from_its_trace() -> None:
    def trace(text: str) -> dict[str, Any]:
        exception = {"_stacktrace": f"Traceback ...\n{text}\n", "_details": None}
        return {"launch_id": 1, "action": {"stored_data": {"_exception": exception}}, "state_history": []}

    assert failure_of(trace("pymongo.errors.ServerSelectionTimeoutError: 127.0.0.1")).trouble is Trouble.DATABASE
    assert failure_of(trace("OSError: [Errno 28] No space left on device")).trouble is Trouble.SYSTEM
    assert failure_of(trace("ValueError: bad")).trouble is None
    assert failure_of({"launch_id": 1, "action": None, "state_history": []}).trouble is Trouble.LOST


def test_waits_double_up_to_a_limit() -> None:
    settings = ScdmSettings(retry_limit=3, retry_wait_seconds=60)
    failures: list[Failure] = []
    for wait in (60, 120, 240):
        failures.append(_failed(Trouble.DATABASE))
        assert judge(failures, "relax", settings).due == NOW + timedelta(seconds=wait)
    verdict = judge([*failures, _failed(Trouble.DATABASE)], "relax", settings)
    assert verdict.due is None  # three tries after the first
    assert verdict.error_type == "E"
    assert "tried 4 times" in verdict.message
    assert "--retry-failed" in verdict.message
    patient = ScdmSettings(retry_limit=99, retry_wait_seconds=60)
    assert judge([_failed(Trouble.SYSTEM)] * 50, "relax", patient).due == NOW + timedelta(hours=6)


def test_limits_of_single_stages_and_of_lost_workers() -> None:
    settings = ScdmSettings(retry_limit=3, retry_limits={"phonon": 0}, lost_limit=2)
    assert judge([_failed(Trouble.MEMORY)], "phonon", settings).due is None
    assert judge([_failed(Trouble.MEMORY)], "relax", settings).due is not None
    assert judge([_failed(None)], "relax", settings).due is None  # the science would only fail again
    assert judge([_failed(Trouble.LOST)], "phonon", settings).due is not None
    verdict = judge([_failed(Trouble.LOST)] * 2, "phonon", settings)
    assert (verdict.due, verdict.error_type) == (None, "Quarantined")
    assert judge([], "relax", settings).due is not None  # all is forgiven


def test_a_lost_worker_is_due_by_its_last_sign_and_can_be_forgiven() -> None:
    seen = NOW + timedelta(hours=1)  # when somebody looked
    launch = {
        "launch_id": 7,
        "action": lost_action("lost: no heartbeat since 03:04"),
        "state_history": [
            {"state": "RUNNING", "created_on": NOW.isoformat(), "updated_on": NOW.isoformat()},
            {"state": "FIZZLED", "created_on": seen.isoformat()},
        ],
    }
    (failure,) = failures_of([launch])
    assert (failure.error_type, failure.at) == ("WorkerLost", NOW)
    assert failures_of([launch], pardoned=7) == []
    assert PARDON == "pardoned_launch"  # stored in fireworks


@pytest.mark.parametrize(
    ("value", "words"),
    [('{"phonons": 1}', "did you mean 'phonon'"), ('{"phonon": -1}', ">= 0"), ("phonon: 1", "JSON")],
)
def test_wrong_limits_are_refused_in_words(value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCDM_RETRY_LIMITS", value)
    with pytest.raises(ConfigError, match="(?i)retry_limits") as refusal:
        get_settings()
    assert words in str(refusal.value)
