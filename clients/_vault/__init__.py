"""What only VaultClient uses."""
