"""The HTTP door: routes, authentication, admission, placement, relay, settlement, admin and health.

It reaches the actors through the ports of `gateway.ports` only, and the database for reports only
(`storage.queries`). No Ray here; no decision of scheduling, and no write to Postgres.
"""
