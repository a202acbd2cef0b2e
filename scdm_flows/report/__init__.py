"""The report of a campaign: what it says (``content``), its figures (``figures``, ``crystals``), its page
(``page``).
"""

from __future__ import annotations

from scdm_flows.report.page import render, render_documents

__all__ = ["render", "render_documents"]
