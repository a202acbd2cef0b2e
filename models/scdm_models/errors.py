"""The exceptions of the model package, all under one root that callers can catch.

::

    ScdmError                 every error this project raises on purpose; its text says value, rule and remedy
    ├── StructureError        a structure that cannot be used (no atoms, overlapping atoms, too many atoms)
    │   └── NotALayerError    not one two-dimensional layer (bulk crystal, molecule)
    ├── SymmetryError         a group, Wyckoff letter or tolerance that does not fit
    ├── DatasetError          a data file that is missing, corrupt or empty
    ├── CheckpointError       a checkpoint that is missing, foreign or tampered with
    └── GenerationError       a request that the sampler cannot satisfy

``scdm_flows.errors`` extends this tree with the errors of campaigns, stores and engines.
"""


class ScdmError(Exception):
    """Root of all errors raised on purpose."""


class StructureError(ScdmError):
    """A structure that cannot be used."""


class NotALayerError(StructureError):
    """A structure that is not one two-dimensional layer."""


class SymmetryError(ScdmError):
    """A symmetry request or detection that does not fit."""


class DatasetError(ScdmError):
    """A data file that is missing, corrupt or empty."""


class CheckpointError(ScdmError):
    """A checkpoint that is missing, foreign or tampered with."""


class GenerationError(ScdmError):
    """A request that the sampler cannot satisfy."""


def reason_of(error: Exception) -> str:
    """What to tell of an error in words: the text of one of ours, and the class before the text of any other."""
    return str(error) if isinstance(error, ScdmError) else f"{type(error).__name__}: {error}"
