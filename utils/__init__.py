"""The local development stack, and the user context under the names that applications know."""
