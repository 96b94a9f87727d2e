"""Training and evaluation runs: configuration in, run folder out."""
