"""What happened to requests and engines, told alike for simulations and for logs, summed up and drawn in notebooks.

Nothing is decided and nothing is written here.
"""
