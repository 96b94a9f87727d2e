"""The command line: configurations, their overrides, logs."""
