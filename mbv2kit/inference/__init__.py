"""From image files to predictions on disk, with a trained model."""
