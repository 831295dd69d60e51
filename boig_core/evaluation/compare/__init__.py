"""Variants of an alignment held against each other."""
