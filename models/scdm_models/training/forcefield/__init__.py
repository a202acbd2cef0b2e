"""The layer force field: its ``network``, the structures it learns from (``labels``), training (``finetune``).

The network is CHGNet (B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023), doi:10.1038/s42256-023-00716-3). The package
``chgnet`` is asked for its code and starting weights; nothing here knows workflows or databases.
"""
