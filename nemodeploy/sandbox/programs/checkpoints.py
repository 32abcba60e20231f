"""Tiny checkpoints of the cards' architectures: `checkpoints.py TINY.gguf DIRECTORY`, in an engine pack's Python.

`llama-3.1` (70B), `tiny` (the demo's, without a begin-of-text token) and `nemotron-nas` (51B, two of its blocks empty)
hold the weights of TINY.gguf, so that every engine must give the same text. `nemotron` (340B and 8B) is trained here
on the same conversations, about half a minute. Each is a directory as on a model hub: config.json, model.safetensors,
tokenizer.json.

Source: the formats of transformers 5 (LlamaConfig, NemotronConfig) and of vLLM's nemotron_nas.py (block_configs).
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from conversations import LLAMA_CHAT, NEMOTRON_CHAT, nemotron_talks, nemotron_texts, sentences
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SINGLE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NEMOTRON = {  # eight KV heads, as the 340B has them, so that TP8 cuts it
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "max_position_embeddings": 4096,
}
LLAMA_CONTEXT = 131072
STEPS = 500
NAS_CONFIGURATION = '''\
"""Blocks of different shapes, as plain objects, which is how vLLM's nemotron_nas.py reads them."""

from types import SimpleNamespace

from transformers import LlamaConfig


def _plain(value):
    return {key: _plain(one) for key, one in vars(value).items()} if isinstance(value, SimpleNamespace) else value


class DeciLMConfig(LlamaConfig):
    model_type = "nemotron-nas"

    def __init__(self, block_configs=(), **others):
        self.block_configs = [
            block
            if isinstance(block, SimpleNamespace)
            else SimpleNamespace(attention=SimpleNamespace(**block["attention"]), ffn=SimpleNamespace(**block["ffn"]))
            for block in block_configs
        ]
        super().__init__(**others)

    def to_dict(self):
        return {**super().to_dict(), "block_configs": [_plain(block) for block in self.block_configs]}
'''


class Tiny:
    """The demo's model, read from its GGUF file."""

    def __init__(self, path: str) -> None:
        reader = gguf.GGUFReader(path)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.tensors = {one.name: np.asarray(one.data, dtype=np.float32) for one in reader.tensors}
        self.heads = int(self.fields["llama.attention.head_count"])
        self.kv_heads = int(self.fields["llama.attention.head_count_kv"])
        self.layers = int(self.fields["llama.block_count"])
        self.pieces: list[str] = self.fields["tokenizer.ggml.tokens"]
        self.special = [piece for piece, kind in zip(self.pieces, self.kinds, strict=True) if kind == 3]

    @property
    def kinds(self) -> list[int]:
        """What each piece is; 3 is a control token."""
        return list(self.fields["tokenizer.ggml.token_type"])

    def id(self, piece: str) -> int:
        """A piece's number."""
        return self.pieces.index(piece)

    def weights(self) -> dict[str, np.ndarray]:
        """By the names of a model hub, the rotary halves in its order."""
        found = {}
        for name, tensor in self.tensors.items():
            parts = name.removesuffix(".weight").split(".")
            if parts[0] != "blk":
                found[SINGLE[parts[0]] + ".weight"] = tensor
                continue
            heads = {"attn_q": self.heads, "attn_k": self.kv_heads}.get(parts[2])
            if heads:
                tensor = halves(tensor, heads)
            found[f"model.layers.{parts[1]}.{IN_BLOCK[parts[2]]}.weight"] = tensor
        return found

    def configuration(self) -> dict[str, Any]:
        """Its config.json."""
        width = int(self.fields["llama.embedding_length"])
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(self.pieces),
            "hidden_size": width,
            "intermediate_size": int(self.fields["llama.feed_forward_length"]),
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": width // self.heads,
            "max_position_embeddings": int(self.fields["llama.context_length"]),
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        }

    def tokenizer(self, begin: str) -> Tokenizer:
        """Its vocabulary; a non-empty `begin` is put in front of every text."""
        merges = [tuple(merge.split(" ")) for merge in self.fields["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(self.pieces)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(self.special)
        if begin:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, self.id(begin))]
            )
        return tokenizer


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """From llama.cpp's interleaved rotary pairs to the two halves that transformers has."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def write(
    directory: Path, tiny: Tiny, configuration: dict[str, Any], weights: dict[str, np.ndarray], begin: str, end: str
) -> None:
    """One checkpoint directory."""
    directory.mkdir(parents=True)
    ids = {"bos_token_id": tiny.id(begin or "<s>"), "eos_token_id": tiny.id(end), "pad_token_id": tiny.id("<pad>")}
    ends = (end,) if end == "<|eot_id|>" else (end, "<extra_id_1>")  # an answer's end in Nemotron's format
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in weights.items()}
    save_file(whole, directory / "model.safetensors", metadata={"format": "pt"})
    tiny.tokenizer(begin).save(str(directory / "tokenizer.json"))
    documents = {
        "config.json": {**configuration, **ids},
        "generation_config.json": {**ids, "eos_token_id": [tiny.id(word) for word in ends]},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": begin or "<s>",
            "eos_token": end,
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "model_max_length": configuration["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, document in documents.items():
        (directory / name).write_text(json.dumps(document, indent=1))
    (directory / "chat_template.jinja").write_text(LLAMA_CHAT if len(ends) == 1 else NEMOTRON_CHAT)


def with_empty_blocks(tiny: Tiny) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The same function as six blocks of which the third and the last have neither attention nor feed-forward."""
    given = {**tiny.configuration(), "max_position_embeddings": LLAMA_CONTEXT}
    wide = -(-given["intermediate_size"] // 256) * 256  # vLLM rounds 2 x multiplier x hidden / 3 up to that
    full = {
        "attention": {"n_heads_in_group": tiny.heads // tiny.kv_heads, "no_op": False},
        "ffn": {"ffn_mult": 1.5 * wide / given["hidden_size"], "no_op": False},
    }
    empty = {"attention": {"n_heads_in_group": None, "no_op": True}, "ffn": {"ffn_mult": None, "no_op": True}}
    places = [0, 1, 3, 4]
    weights = {}
    for name, tensor in tiny.weights().items():
        head, _, rest = name.partition("model.layers.")
        if rest:
            number, _, rest = rest.partition(".")
            name = f"{head}model.layers.{places[int(number)]}.{rest}"
        more = wide - given["intermediate_size"]
        if ".mlp." in name:  # filled up with nothing
            tensor = np.pad(tensor, ((0, 0), (0, more)) if "down" in name else ((0, more), (0, 0)))
        weights[name] = tensor
    configuration = {
        **given,
        "intermediate_size": wide,
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"},
        "num_hidden_layers": 6,
        "block_configs": [full if place in places else empty for place in range(6)],
    }
    return configuration, weights


def nemotron(tiny: Tiny) -> tuple[dict[str, Any], dict[str, np.ndarray], float]:
    """Train one: no gate, squared ReLU, LayerNorm around one, half of each head rotated. Returns the last loss too."""
    import torch
    from training import train
    from transformers import NemotronConfig, NemotronForCausalLM

    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = NemotronForCausalLM(NemotronConfig(**NEMOTRON, vocab_size=len(tiny.pieces), initializer_range=0.02))
    tokenizer = tiny.tokenizer("")
    talks = [*nemotron_texts(), *nemotron_talks()]
    texts = [text.removesuffix("<extra_id_1>") + "<|endoftext|>" for text in talks] + sentences()
    loss = train(model, lambda tokens: model(tokens).logits, [tokenizer.encode(text).ids for text in texts], STEPS)
    configuration = json.loads(model.config.to_json_string())
    configuration["architectures"] = ["NemotronForCausalLM"]
    return configuration, {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}, loss


def main(source: str, target: str) -> None:
    """Write all of them beside the target, then put them in its place."""
    tiny, begun = Tiny(source), time.monotonic()
    final = Path(target)
    new = final.with_name(final.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    weights = tiny.weights()
    write(new / "tiny", tiny, tiny.configuration(), weights, begin="", end="<|endoftext|>")
    long = {**tiny.configuration(), "max_position_embeddings": LLAMA_CONTEXT}
    write(new / "llama-3.1", tiny, long, weights, begin="<|begin_of_text|>", end="<|eot_id|>")
    write(new / "nemotron-nas", tiny, *with_empty_blocks(tiny), begin="<|begin_of_text|>", end="<|eot_id|>")
    (new / "nemotron-nas/configuration_decilm.py").write_text(NAS_CONFIGURATION)
    *trained, loss = nemotron(tiny)
    write(new / "nemotron", tiny, *trained, begin="", end="<|endoftext|>")
    shutil.rmtree(final, ignore_errors=True)
    new.rename(final)
    sys.stdout.write(f"tiny checkpoints made in {time.monotonic() - begun:.0f} s, loss {loss:.4f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
