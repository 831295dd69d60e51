"""What Airflow's pages show of boig: links, the store's pages, the provider and its plugin."""
