"""Models: their description, their weights, and the folders that hold them."""
