"""Classifiers: the query network, and those that judge synthetic images."""
