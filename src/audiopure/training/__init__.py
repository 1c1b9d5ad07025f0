"""Training: one visible loop, one recipe a file."""
