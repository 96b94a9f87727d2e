"""From image files to a network's input, and from its outputs to predictions and drawings; no torch."""
