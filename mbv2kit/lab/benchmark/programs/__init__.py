"""Whole programs as people write them: each sees a folder of JPEG files and writes a line of JSON for each."""
