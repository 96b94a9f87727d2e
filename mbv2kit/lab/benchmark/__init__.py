"""Measures the speed of models against other libraries, each competitor in its own process."""
