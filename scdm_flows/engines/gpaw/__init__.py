"""The GPAW engine: DFT for everyone, in a process of its own."""
