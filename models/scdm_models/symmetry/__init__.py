"""Layer groups: their Wyckoff positions (``tables``) and their detection in structures (``detect``)."""

from __future__ import annotations

from scdm_models.symmetry.tables import LayerGroup, WyckoffPosition, layer_group

__all__ = ["LayerGroup", "WyckoffPosition", "layer_group"]
