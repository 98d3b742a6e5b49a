"""Adapters of the embedding port (`actors.classifier.EmbeddingPort`): texts in, one vector each out.

Knows nothing of models, prompts or what the vectors are for.
"""
