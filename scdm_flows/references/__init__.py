"""Reference phases: the packaged surrogate energies (``table``), how they were made (``build``) and fitted (``fit``)."""
