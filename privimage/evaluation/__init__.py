"""Synthetic images, their Frechet distance to real ones, and their use for training classifiers."""
