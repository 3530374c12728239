"""Batch scoring: a collection of images in, a dataset of scores out.

The inputs are fixed in a plan when a job starts. Each part of the plan becomes one Parquet file with its own
completion marker, so that an interrupted job resumes at the first unfinished part. Every input is one row:
four scores, or the error code that says why there are none.
"""
