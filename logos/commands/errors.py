"""How commands say that what they were given cannot be used: one line, exit code 2."""

from __future__ import annotations

import click


class BadInput(click.ClickException):
    """What was given cannot be used; nothing was done and nothing was written."""

    exit_code = 2
