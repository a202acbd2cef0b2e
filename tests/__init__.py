"""A package, as optimade 1.5 installs its tests as ``tests``: processes that a test starts would find those instead."""
