"""Web pages of a database: candidates, one candidate, campaigns, SCDM beside UnSCDM. They read and never write.

``site`` makes the WSGI application and owns routes and headers; ``browse``, ``candidate``, ``campaign`` and
``comparison`` make one page each; ``address`` is the question that a page's address asks; ``figures`` draws. All data
come through ``CandidateDB``.
"""

from __future__ import annotations

from scdm_flows.server.pages.site import pages_app

__all__ = ["pages_app"]
