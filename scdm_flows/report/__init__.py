"""The report of a campaign: what it says (``content``), its figures (``figures``, ``crystals``), its page
(``page``).
"""

from __future__ import annotations

from scdm_flows.report.page import paper_figures, render, render_documents

__all__ = ["paper_figures", "render", "render_documents"]
