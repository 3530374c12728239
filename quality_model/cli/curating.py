"""Commands that look at a scoring result and act on it."""

from __future__ import annotations

import click

COMMANDS: list[click.Command] = []
