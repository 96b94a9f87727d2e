"""From picture files to predictions on disk, with a trained model."""
