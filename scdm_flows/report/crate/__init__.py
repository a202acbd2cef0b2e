"""A campaign out of the house: an RO-Crate with all that is known of it, and of the ways to its results."""
