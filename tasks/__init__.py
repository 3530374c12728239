"""Prefect adapters: one call into the library, or into DVC, each."""
