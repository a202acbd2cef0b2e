"""Training: of the diffusion model (``train``), and of the force field for layers (``forcefield``)."""
