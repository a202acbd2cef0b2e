"""The symmetry-constrained diffusion model (SCDM) of two-dimensional crystals.

Owns the science that needs torch, numpy and pymatgen: layer-group symmetry, encoding and decoding,
diffusion, sampling, checkpoints, data sets and curation. Knows nothing of workflows or databases.
Importing this package is cheap; torch is loaded by the modules that use it.
"""

__version__ = "0.1.0"
