"""Code that runs inside workers; each file sets up the competitors of some libraries, in their interpreters.

A file imports its library, NumPy and, of mbv2kit, only this package; ``mbv2kit_models.py`` alone imports the rest.
"""
