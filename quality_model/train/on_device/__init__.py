"""Profile `calibrated` applied in batches on a device: the kinds of `quality_model.degrade` in PyTorch.

What is done to each sample is drawn by the profile's own plan (`calibrated_plan`), and labels
come from its scales. Kinds without randomness agree with the image-by-image code to within
2 grey levels; noise has another stream and the same distribution.

Images are `Levels` in between: float32 (n, 3, S, S), whole numbers from 0 to 255.
"""

from quality_model.train.on_device.batch import BatchDegrader, SamplePlan, degrade, draw_sample_plan

__all__ = ["BatchDegrader", "SamplePlan", "degrade", "draw_sample_plan"]
