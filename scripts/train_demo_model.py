"""Train the sandbox's tiny language model and write it as GGUF.

    pip install torch gguf tokenizers numpy
    python scripts/train_demo_model.py nemodeploy/sandbox/programs/tiny.gguf

A Llama of about a million parameters learns the few dozen conversations below by heart, in the prompt template of
Nemotron-4-340B-Instruct and as plain sentences, so that the stand-in answers in words. The file that is committed was
made by this script; nothing at run time needs torch.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional

from nemodeploy.sandbox.programs.conversations import NEMOTRON_CHAT, SPECIAL, llama_texts, nemotron_texts, sentences
from nemodeploy.sandbox.programs.training import train

VOCAB, WIDTH, HEADS, KV_HEADS, FEED_FORWARD, LAYERS, CONTEXT = 640, 128, 4, 2, 352, 4, 4096
HEAD = WIDTH // HEADS

def train_tokenizer(corpus: list[str]) -> Tokenizer:
    """A byte-level BPE of VOCAB pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotary embedding over interleaved pairs, llama.cpp's own order for the `llama` architecture."""
    steps = torch.arange(x.shape[2], dtype=torch.float32)
    angle = steps[:, None] * (10000.0 ** (-torch.arange(0, HEAD, 2, dtype=torch.float32) / HEAD))
    even, odd = x[..., 0::2], x[..., 1::2]
    pairs = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
    return torch.stack(pairs, dim=-1).flatten(-2)


class Block(nn.Module):
    """One layer: grouped-query attention and a gated feed-forward, both pre-normed."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_norm, self.ffn_norm = nn.RMSNorm(WIDTH, eps=1e-6), nn.RMSNorm(WIDTH, eps=1e-6)
        self.attn_q, self.attn_output = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.attn_k = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.attn_v = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.ffn_gate = nn.Linear(WIDTH, FEED_FORWARD, bias=False)
        self.ffn_up = nn.Linear(WIDTH, FEED_FORWARD, bias=False)
        self.ffn_down = nn.Linear(FEED_FORWARD, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        h = self.attn_norm(x)
        q, k, v = (
            layer(h).view(batch, length, heads, HEAD).transpose(1, 2)
            for layer, heads in ((self.attn_q, HEADS), (self.attn_k, KV_HEADS), (self.attn_v, KV_HEADS))
        )
        k, v = (part.repeat_interleave(HEADS // KV_HEADS, dim=1) for part in (rotate(k), v))
        mixed = functional.scaled_dot_product_attention(rotate(q), k, v, is_causal=True)
        x = x + self.attn_output(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        h = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Tiny(nn.Module):
    """The whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(VOCAB, WIDTH)
        self.blk = nn.ModuleList(Block() for _ in range(LAYERS))
        self.output_norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.output = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x)
        return self.output(self.output_norm(x))


def write_gguf(path: str, model: Tiny, tokenizer: Tokenizer) -> None:
    """Write weights (half precision, norms in single) and vocabulary in llama.cpp's format."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("nemodeploy demo")
    for add, value in (
        (writer.add_context_length, CONTEXT),
        (writer.add_embedding_length, WIDTH),
        (writer.add_block_count, LAYERS),
        (writer.add_feed_forward_length, FEED_FORWARD),
        (writer.add_head_count, HEADS),
        (writer.add_head_count_kv, KV_HEADS),
        (writer.add_rope_dimension_count, HEAD),
        (writer.add_vocab_size, VOCAB),
    ):
        add(value)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    bpe = json.loads(tokenizer.to_str())["model"]
    pieces = [piece for piece, _ in sorted(bpe["vocab"].items(), key=lambda item: item[1])]
    pieces += [f"<unused{n}>" for n in range(len(pieces), VOCAB)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types([3 if p in SPECIAL else 5 if p.startswith("<unused") else 1 for p in pieces])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(SPECIAL.index("<|endoftext|>"))
    writer.add_eot_token_id(SPECIAL.index("<extra_id_1>"))  # where an answer ends in Nemotron's format
    writer.add_add_bos_token(False)
    writer.add_chat_template(NEMOTRON_CHAT)
    for name, weight in model.state_dict().items():
        array = weight.numpy()
        writer.add_tensor(name, array.astype(np.float16) if array.ndim == 2 else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(path: str, steps: int) -> None:
    """Train and write."""
    random.seed(0)
    torch.manual_seed(0)
    corpus = nemotron_texts() + llama_texts() + sentences()
    tokenizer = train_tokenizer(corpus)
    rows = [tokenizer.encode(text, add_special_tokens=False).ids for text in corpus]
    model, begun = Tiny(), time.monotonic()
    loss = train(model, model, rows, steps)
    write_gguf(path, model, tokenizer)
    count = sum(map(torch.numel, itertools.chain(model.parameters())))
    print(f"{count} parameters, {steps} steps, loss {loss:.4f}, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3000)
