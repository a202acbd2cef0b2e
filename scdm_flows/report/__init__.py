"""The report of a campaign: figures (``figures``) in one self-contained HTML file (``page``)."""

from __future__ import annotations

from scdm_flows.report.page import render

__all__ = ["render"]
