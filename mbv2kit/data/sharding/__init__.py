"""Writes data sets as shards: tars in WebDataset's convention, and an index of what lies where in them."""
