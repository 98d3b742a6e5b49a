"""Postgres: tables, migrations, the embedded server, the ledger's writer, and the queries of reports.

SQL lives here and nowhere else. Nothing here decides anything: no prices, no limits, no scheduling.
"""
