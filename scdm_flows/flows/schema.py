"""jobflow's check of ``job.output.x``, answered from memory the second time.

jobflow makes the JSON schema of a job's whole output model anew for every attribute that is taken of an output. Of a
candidate's VASP flows with ten jobs that is 0.2 of 0.26 s, and two thousand of them would take ten minutes to build.
The answer depends on the model and the name alone, so each is worked out once in a process. A misspelt name is refused
as before.
"""

from __future__ import annotations

from functools import cache

from jobflow.core import reference


def remember_schemas() -> None:
    """Put a memory in front of ``jobflow.core.reference.validate_schema_access``; a second call changes nothing.

    Made for jobflow 0.4, whose output references look that name up in their module (pyproject.toml holds the version).
    """
    if not hasattr(reference.validate_schema_access, "cache_clear"):
        reference.validate_schema_access = cache(reference.validate_schema_access)
