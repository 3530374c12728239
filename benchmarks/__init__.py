"""Speed as a ratio: the library against the obvious implementation of the same work.

`python -m benchmarks`, or `make bench`.
"""
