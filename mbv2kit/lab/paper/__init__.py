"""Compares the paper's numbers with those of mbv2kit, counted on the networks."""
