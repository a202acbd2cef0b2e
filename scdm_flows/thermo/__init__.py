"""Convex hulls: competing phases on one energy scale (``table``, ``scales``, ``build``), a user's own (``entries``)."""
