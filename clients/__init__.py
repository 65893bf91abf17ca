"""Fail-fast clients for Vault, PostgreSQL and Valkey."""
