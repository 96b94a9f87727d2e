"""What a network costs, and what the paper says of it: multiply-adds, activation memory, figures and tables."""
