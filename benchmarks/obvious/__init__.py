"""The three jobs as one writes them first: one image at a time, float32, no worker processes.

Nothing here is slowed down on purpose, and nothing is tuned. It is what the library's speed is
measured against, and needs nothing of the library but the ranges of what is drawn.
"""
