"""Looking at a scoring result and acting on it: gallery, filter, near duplicates, thresholds of one's own.

It reads finished results (`quality_model.score`) and never changes one.
"""
