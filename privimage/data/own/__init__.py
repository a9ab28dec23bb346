"""Formats in which people have images of their own."""
