"""The Airflow side: what DAG files are made of. Nothing else in the package imports Airflow."""
