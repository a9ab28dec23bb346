"""Published image sets, each checked, and the rendered glyphs."""
