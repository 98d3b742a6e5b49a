"""The platform's few single places of truth: scheduler, ledger, accounts and node, as plain async classes.

No Ray import here: `deployments` makes Ray actors of these classes, tests run them as they are. Each owns what
docs/design.md says and nothing else.
"""
