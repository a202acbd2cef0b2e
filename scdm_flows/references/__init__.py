"""Reference phases: the packaged surrogate energies (``table``), how they are made (``build``) and fitted (``fit``)."""
