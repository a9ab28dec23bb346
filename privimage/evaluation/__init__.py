"""Synthetic images judged: their Frechet distance to real ones, and the accuracy of classifiers."""
