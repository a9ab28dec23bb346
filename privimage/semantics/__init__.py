"""The query network, the private semantic query and the public subset that it selects."""
