"""What only ValkeyClient uses."""
