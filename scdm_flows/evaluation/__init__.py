"""Judging generators of layers by one protocol: what is measured, baselines beside a model, shares and intervals."""
