"""What only PostgresClient uses."""
