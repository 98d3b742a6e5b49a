"""Logos: one OpenAI-compatible door in front of remote providers and self-hosted vLLM models, on Ray.

The rooms and the directions between them are drawn in docs/design.md and enforced by
tests/test_architecture.py. Nothing but the version lives in this file.
"""

__version__ = "0.1.0"
