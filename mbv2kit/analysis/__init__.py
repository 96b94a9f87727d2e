"""Analyzes networks: multiply-adds, parameters, activation memory and activation patterns."""
