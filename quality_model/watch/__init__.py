"""Watching collections over time: what has moved since a reference, and which images moved it."""
