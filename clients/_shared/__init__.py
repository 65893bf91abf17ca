"""What all three clients share."""
