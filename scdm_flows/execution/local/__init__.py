"""A campaign in this process and its worker processes: ``scdm campaign run``."""
