"""What runs inside a worker: each file sets up the competitors of one library, in whatever interpreter has it.

A file imports its own library and NumPy, and of mbv2kit only this package; ``ours.py`` alone imports the rest.
"""
