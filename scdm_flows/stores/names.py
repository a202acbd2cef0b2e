"""Names of the collections and their keys: what is stored where."""

from __future__ import annotations

TIMEOUT_MS = 5000
BATCH = 200  # documents in memory at a time where all of a collection are read
OUTPUTS, BLOBS = "outputs", "outputs_blobs"  # of jobflow's job store
SET_ASIDE = "outputs_set_aside"  # outputs that were computed again
FILES, CHUNKS = f"{BLOBS}.files", f"{BLOBS}.chunks"
CONTROLS = "scdm_controls"  # what was decided for a campaign besides its configuration, a document each
KEYS = {
    "candidates": "candidate_id",
    "campaigns": "name",
    "phonons": "candidate_id",
    "bands": "candidate_id",
    "hulls": "hull_id",
    "failures": "failure_id",
    "rankings": "campaign",
    "loops": "name",
}
GONE = ("ranking_blocks",)  # collections of earlier versions, which ``scdm db migrate`` drops
