"""Published weights in, our models out: one file for each place where weights are published."""
