"""The exceptions of the workflow package; they extend the tree of ``scdm_models.errors``.

::

    ScdmError
    ├── StructureError, NotALayerError, SymmetryError,        see scdm_models.errors
    │   DatasetError, CheckpointError, GenerationError
    ├── ConfigError             a campaign file or setting that is wrong
    ├── ReferenceDataError      a reference table or energy model that is missing, corrupt or does not fit
    ├── StoreError              a database that is unreachable, read-only, of another version, or whose port is in use
    ├── CampaignError           a campaign that cannot be submitted, found or resumed
    ├── EngineError             an engine that lacks what it needs (executable, weights, files), or a run that fails
    │   ├── ProgramKilled       its program ended in the middle, which may be no fault of the job's
    │   └── Unfinished          its time was over; the next attempt goes on where this one ended
    └── OutputError             a file that cannot be written (exists, no permission, disk full)

The command line maps them to exit codes: 2 for what the user can mend before running (``exit_code = 2``), 1 for
failures while running.
"""

from scdm_models.errors import (
    CheckpointError,
    DatasetError,
    GenerationError,
    NotALayerError,
    ScdmError,
    StructureError,
    SymmetryError,
)

__all__ = [
    "CampaignError",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "EngineError",
    "GenerationError",
    "NotALayerError",
    "OutputError",
    "ProgramKilled",
    "ReferenceDataError",
    "ScdmError",
    "StoreError",
    "StructureError",
    "SymmetryError",
    "Unfinished",
]


class ConfigError(ScdmError):
    """A campaign file or setting that is wrong."""


class ReferenceDataError(ScdmError):
    """A reference table or energy model that is missing, corrupt or does not fit."""


class StoreError(ScdmError):
    """A database that is unreachable, read-only, of another version, or whose port is in use."""


class CampaignError(ScdmError):
    """A campaign that cannot be submitted, found or resumed."""


class EngineError(ScdmError):
    """An engine that lacks what it needs."""

    exit_code = 1


class ProgramKilled(EngineError):
    """A program that ended in the middle: memory, the queue, a node."""


class Unfinished(EngineError):
    """A run whose time was over; the next attempt goes on where it ended.

    of_worker: whether it was the worker's time, so that the job is given back and is no failure.
    """

    def __init__(self, message: str, *, of_worker: bool = False) -> None:
        super().__init__(message)
        self.of_worker = of_worker


class OutputError(ScdmError):
    """A file that cannot be written."""

    exit_code = 1
