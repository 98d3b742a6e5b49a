"""What requests cost and what keys may use: prices, usage, charges, and quota from both ends of its leases.

Pure: time and dates are arguments, and nothing here knows of Postgres, HTTP or actors. Money is integer micro-cents.
"""
