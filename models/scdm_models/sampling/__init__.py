"""Sampling of a trained model: skeletons, the reverse diffusion of lattice and coordinates, and corrections after it.

Also here: requests for a composition, the paper's decoding of samples without symmetry, and reconstruction.
"""
