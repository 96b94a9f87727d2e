"""Data sets as samples: where pictures and their truth come from, and what training does to them."""
