"""Servers and examples for running the project elsewhere than in one process."""
