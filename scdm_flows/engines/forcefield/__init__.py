"""The force-field engine: batched relaxation, energies and phonons from a machine-learned force field."""
