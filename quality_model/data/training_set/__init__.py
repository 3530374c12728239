"""The labelled samples on disk: how they are made, split by group, kept and read."""
