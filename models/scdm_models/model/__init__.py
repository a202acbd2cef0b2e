"""The diffusion model: crystals as tensors, the forward process, both networks with their losses, and checkpoints."""
