"""What only the Dagster adapter uses."""
