"""jobflow: the stages of a candidate as jobs, and the flows of shards and candidates that are made of them."""
