"""The paper's numbers next to ours, counted from the networks."""
