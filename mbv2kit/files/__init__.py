"""Reads and writes files so that nothing is lost: atomic writing, disk errors, safe names, text."""
