"""Which public classes the answer of the query selects."""
