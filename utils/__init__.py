"""What the clients stand on: user context, settings, and the local development stack."""
