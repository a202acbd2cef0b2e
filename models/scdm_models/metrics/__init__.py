"""Measures of generated crystals: validity, uniqueness and novelty, distributions, and distances of reconstructions."""
