"""Numbers that judge generated crystals."""
