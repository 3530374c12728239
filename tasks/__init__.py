"""Prefect adapters: one call into the library, or into DVC, each."""

from quality_model.errors import guard_logs

guard_logs()  # what a flow logs goes to Prefect's server
