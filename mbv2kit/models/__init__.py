"""A model: its description, its weights, and what is built from them."""
