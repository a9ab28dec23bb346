"""What a run is asked to do: validated settings, presets, defaults, descriptions of own images."""
