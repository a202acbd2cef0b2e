"""Convex hulls: competing phases on one energy scale (``table``, ``build``), a user's own (``entries``), the distance to them."""
