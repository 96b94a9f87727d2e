"""Serving: models answer over HTTP, image files to predictions and tensors by the Open Inference Protocol."""
