"""Numbers of whole runs as report.json, as pages, and as tables in a terminal."""
