"""Reads data sets as samples, augments them and makes batches."""
