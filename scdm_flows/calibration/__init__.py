"""Energy models: what a force field sees of a layer -> its PBE formation energy, with an error."""
