"""The report of a campaign: what it says (``content``), its figures (``figures``, ``crystals``), as HTML (``campaign``)
and, beside the paper's numbers, as Markdown (``results``).
"""

from __future__ import annotations

from scdm_flows.report.campaign import paper_figures, render, render_documents

__all__ = ["paper_figures", "render", "render_documents"]
