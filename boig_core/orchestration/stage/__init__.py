"""One stage as an Airflow task: which attempt counts, the operator, what is tried again."""
