"""Scores over HTTP: image bytes in, the document of `predict --json` out."""
