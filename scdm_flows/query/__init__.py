"""The read API: candidates, campaigns and hulls by typed filters. Loads neither torch nor atomate2 nor FireWorks."""

from scdm_flows.query.candidate_db import CandidateDB

__all__ = ["CandidateDB"]
