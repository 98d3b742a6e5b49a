"""Writes a tiny Llama of random weights, so that a real vLLM can be tested without a download.

Run by the Python that has vLLM: `python tests/support/tiny_model.py DIRECTORY`. The weights are seeded, the
tokenizer is a byte-level BPE trained on the sentences below, and a chat template makes
/v1/chat/completions work. What the model says is noise; what vLLM does with it is real.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

VOCABULARY_MAX = 1024
CONTEXT_TOKENS = 8192
SPECIAL_TOKENS = ["<|end|>", "<|start|>", "<|pad|>"]

SENTENCES = [
    "The quick brown fox jumps over the lazy dog while the scheduler watches the queue.",
    "A request arrives, waits for a free slot, is served by an engine, and leaves a record behind.",
    "Write a function that adds two numbers and returns the result; then test it with small inputs.",
    "def add(first, second): return first + second  # the sum of both",
    "Übersetze den Satz ins Englische: Der Hund läuft über die Straße, und es regnet seit Mittag.",
    "What is the integral of x squared from zero to one? One third, of course.",
    "Le chat dort près de la fenêtre, et le café est déjà prêt. 今日は天気がいいですね。",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def write_model(directory: Path) -> None:
    """Writes config, weights and tokenizer into `directory`, which appears only when it is complete."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    unfinished = directory.with_name(f"{directory.name}.{os.getpid()}")
    tokenizer = trained_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|start|>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|pad|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(directory)


def trained_tokenizer():
    """A byte-level BPE over SENTENCES, with the chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_MAX,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|start|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        model_max_length=CONTEXT_TOKENS,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
