"""Training runs: configuration in, run folder out."""
