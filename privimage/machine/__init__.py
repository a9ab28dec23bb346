"""The machine: workers, memory, processes, and what it is."""
