"""What reproduces the paper and measures speed; no user of the library needs it."""
