"""The symmetry-constrained diffusion model (SCDM) of two-dimensional crystals.

Holds what needs torch, numpy and pymatgen: layer-group symmetry, encoding and decoding, diffusion, sampling,
checkpoints, data sets and curation. It depends on no workflow and no database. Importing this package is cheap; torch
is loaded by the modules that use it.
"""

__version__ = "0.1.0"
