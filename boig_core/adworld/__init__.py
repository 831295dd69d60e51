"""A procedural world of brands, posts and images with a KNOWN KPI law, for the demo and the
tests."""
