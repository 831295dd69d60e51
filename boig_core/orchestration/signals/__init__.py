"""What is told to people and other systems: alerts, deadlines, counts, OpenLineage."""
