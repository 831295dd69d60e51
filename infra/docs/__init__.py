"""The documentation's site: MkDocs settings, and pages that are made from the code."""
