"""Serve deployments and the composition root: they import everything, nothing imports them."""
