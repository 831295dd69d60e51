"""What a run works on: assets between DAGs, intervals, variants, a rehearsal, old files."""
