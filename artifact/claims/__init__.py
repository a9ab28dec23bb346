"""Claims: their registry, their runs and what these need."""
