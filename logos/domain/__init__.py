"""The words of Logos: frozen nouns, lifecycles as tables, the error tree, the record and lease schemas.

Everything here is a value. No clock, no I/O, no third-party import, no behaviour beyond derived properties.
"""
