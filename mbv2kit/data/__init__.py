"""Data sets as samples: where images and their ground truth come from, and what training does to them."""
