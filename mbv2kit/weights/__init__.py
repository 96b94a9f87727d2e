"""Reads published weights as models of mbv2kit; one module for each origin of weights."""
