"""The development stack: one module for each server, and what starts, seeds and keeps them."""
