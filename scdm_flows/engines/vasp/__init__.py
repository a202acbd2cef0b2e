"""The VASP engine: atomate2's makers with input sets for layers, checks of what VASP left, and its cost."""
