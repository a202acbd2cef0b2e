"""Pure functions: structures, energies and documents in, documents out. No input or output, no database."""
