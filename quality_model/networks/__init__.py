"""The networks and their files (PyTorch)."""
