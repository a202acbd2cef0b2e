"""Discovery of two-dimensional materials as jobflow flows on FireWorks, with results in maggma stores.

Importing this package is cheap: torch, atomate2 and fireworks are loaded by the commands that need them.
"""

__version__ = "0.1.0"
