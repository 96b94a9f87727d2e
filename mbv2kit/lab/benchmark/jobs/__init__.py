"""The jobs of the benchmark; each lists its cases."""
