"""The jobs of the benchmark: each lists the cases in which competitors meet."""
