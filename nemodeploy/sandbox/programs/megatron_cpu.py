"""Real megatron-core on CPUs: a GPT sharded TP x PP over gloo, with the weights of a checkpoint directory.

Written for torch 2.13.0 and megatron-core 0.16.1, which the engine pack pins: what they ask of CUDA without looking
is answered here for a CPU. Real are the model, its sharding, its collectives and its inference engine; not real are
NCCL, the GPU kernels, and reading a .nemo archive, in whose place `config.json` and `model.safetensors` are read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from megatron_gpt_eval import first_host, say
from safetensors import safe_open
from tokenizers import Tokenizer as Vocabulary

JOIN_WITHIN_S = 300
MOST_REQUESTS = 128
CONTEXT = 4096


class _Event:
    """A CUDA event that has nothing to measure."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def record(self, *_: Any) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, _: Any) -> float:
        return 0.0


def tensors_on_cpu() -> None:
    """Have `.cuda()` and `device="cuda"` mean the CPU."""
    for owner in (torch.Tensor, torch.nn.Module):
        owner.cuda = lambda self, *_, **__: self
    for name in ("tensor", "empty"):
        setattr(torch, name, _without_cuda(getattr(torch, name)))


def on_cpu() -> None:
    """The same for all that megatron-core asks of CUDA."""
    tensors_on_cpu()
    cuda = torch.cuda
    cuda.current_device = lambda: torch.device("cpu")
    for module, name in (
        (cuda, "set_device"),
        (cuda, "synchronize"),
        (cuda.nvtx, "range_push"),
        (cuda.nvtx, "range_pop"),
    ):
        setattr(module, name, lambda *_, **__: None)  # one function each: torch keeps a table of them
    cuda.Event = _Event
    cuda.LongTensor = lambda x: (
        torch.tensor(x, dtype=torch.long) if isinstance(x, list) else torch.zeros(x, dtype=torch.long)
    )
    for name in ("zeros", "ones", "full", "arange"):
        setattr(torch, name, _without_cuda(getattr(torch, name)))


def _without_cuda(function: Any) -> Any:
    def wrapped(*values: Any, **options: Any) -> Any:
        if str(options.get("device", "")).startswith("cuda"):
            options["device"] = "cpu"
        return function(*values, **options)

    return wrapped


def join(world: int) -> int:
    """Meet the other ranks of the Slurm step, as Lightning does. Returns this process's rank."""
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    name = first_host(os.environ.get("SLURM_NODELIST", "localhost"))
    try:
        address = socket.gethostbyname(name)
    except OSError:  # all nodes on one machine
        address = "127.0.0.1"
    port = os.environ.get("MASTER_PORT", "29500")
    say(f"Initializing distributed: GLOBAL_RANK: {rank}, MEMBER: {rank + 1}/{world}")
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=JOIN_WITHIN_S),
    )
    if rank == 0:
        say("All distributed processes registered.")
    return rank


class Tokenizer:
    """What megatron-core wants of one."""

    def __init__(self, directory: Path, ids: dict[str, int]) -> None:
        self.vocabulary = Vocabulary.from_file(str(directory / "tokenizer.json"))
        self.eod, self.bos = ids["eos_token_id"], ids["bos_token_id"]
        self.vocab_size = self.vocabulary.get_vocab_size()

    def tokenize(self, text: str) -> list[int]:
        """Without a begin-of-text token: callers say whether they want one."""
        return self.vocabulary.encode(text, add_special_tokens=False).ids

    def detokenize(self, ids: list[int]) -> str:
        """With special tokens, as NeMo's servers return them."""
        return self.vocabulary.decode([int(one) for one in ids], skip_special_tokens=False)

    def offsets(self, ids: list[int], text: str) -> list[int]:
        """Where each token begins in the text."""
        return [len(self.detokenize(ids[:place])) for place in range(len(ids))]


class Checkpoint:
    """A checkpoint directory, cut for this rank as it is read."""

    def __init__(self, path: str) -> None:
        self.directory = Path(path)
        if not self.directory.exists():
            raise FileNotFoundError(f"Can't find {path}")
        self.configuration = json.loads((self.directory / "config.json").read_text())
        architecture = self.configuration["architectures"][0]
        if architecture not in ("LlamaForCausalLM", "NemotronForCausalLM"):
            raise ValueError(f"Unsupported architecture {architecture}: no Megatron model has its blocks")
        self.gated = architecture == "LlamaForCausalLM"
        self.tokenizer = Tokenizer(self.directory, self.configuration)

    def model(self, tensor: int, pipeline: int) -> Any:
        """The part of the model that this rank holds."""
        from megatron.core import parallel_state
        from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
        from megatron.core.models.gpt.gpt_model import GPTModel
        from megatron.core.transformer.transformer_config import TransformerConfig

        wanted = self.configuration
        norm = "RMSNorm" if self.gated else "LayerNorm"
        rope = wanted.get("rope_parameters") or {}
        configuration = TransformerConfig(
            num_layers=wanted["num_hidden_layers"],
            hidden_size=wanted["hidden_size"],
            ffn_hidden_size=wanted["intermediate_size"],
            num_attention_heads=wanted["num_attention_heads"],
            num_query_groups=wanted["num_key_value_heads"],
            kv_channels=wanted["head_dim"],
            normalization=norm,
            layernorm_epsilon=wanted.get("rms_norm_eps") or wanted.get("norm_eps"),
            gated_linear_unit=self.gated,
            activation_func=torch.nn.functional.silu if self.gated else squared_relu,
            add_bias_linear=False,
            use_cpu_initialization=True,
            params_dtype=torch.float32,
            pipeline_dtype=torch.float32,
            tensor_model_parallel_size=tensor,
            pipeline_model_parallel_size=pipeline,
            gradient_accumulation_fusion=False,
            bias_dropout_fusion=False,
            bias_activation_fusion=False,
            masked_softmax_fusion=False,
            persist_layer_norm=False,
            hidden_dropout=0.0,
            attention_dropout=0.0,
        )
        model = GPTModel(
            configuration,
            get_gpt_layer_local_spec(normalization=norm),
            wanted["vocab_size"],
            wanted["max_position_embeddings"],
            pre_process=parallel_state.is_pipeline_first_stage(),
            post_process=parallel_state.is_pipeline_last_stage(),
            share_embeddings_and_output_weights=False,
            position_embedding_type="rope",
            rotary_percent=rope.get("partial_rotary_factor", 1.0),
            rotary_base=int(rope.get("rope_theta", 10000)),
        ).eval()
        self._fill(model, parallel_state.get_tensor_model_parallel_rank(), tensor)
        return model

    def _fill(self, model: Any, rank: int, tensor: int) -> None:
        with safe_open(self.directory / "model.safetensors", "pt") as weights, torch.no_grad():
            layers = {f"decoder.layers.{i}": layer.layer_number - 1 for i, layer in enumerate(model.decoder.layers)}
            for name, parameter in model.named_parameters():
                local = re.match(r"decoder\.layers\.\d+", name)
                if local:
                    source = f"model.layers.{layers[local[0]]}."
                    whole = self._in_layer(weights, source, name[local.end() + 1 :], rank, tensor)
                else:
                    whole = self._outside(weights, name, rank, tensor)
                if whole.shape != parameter.shape:
                    there, here = tuple(whole.shape), tuple(parameter.shape)
                    raise RuntimeError(f"size mismatch for {name}: {there} in the checkpoint, {here} here")
                parameter.copy_(whole)

    def _in_layer(self, weights: Any, source: str, name: str, rank: int, tensor: int) -> torch.Tensor:
        """One parameter of a layer: queries, keys and values in groups; gate and up beside each other."""
        cut = lambda one, dim=0: weights.get_tensor(source + one).chunk(tensor, dim)[rank]  # noqa: E731
        if name == "self_attention.linear_qkv.weight":
            groups, size = self.configuration["num_key_value_heads"] // tensor, self.configuration["head_dim"]
            parts = [cut(f"self_attn.{kind}_proj.weight") for kind in "qkv"]
            return torch.cat([part.view(groups, -1, size, part.shape[1]) for part in parts], 1).flatten(0, 2)
        if name == "self_attention.linear_proj.weight":
            return cut("self_attn.o_proj.weight", 1)
        if name == "mlp.linear_fc1.weight":
            return torch.cat([cut(f"mlp.{kind}_proj.weight") for kind in (("gate", "up") if self.gated else ("up",))])
        if name == "mlp.linear_fc2.weight":
            return cut("mlp.down_proj.weight", 1)
        norm, _, what = name.partition(".")
        ours = {"input_layernorm": "input_layernorm", "pre_mlp_layernorm": "post_attention_layernorm"}[norm]
        return self._norm(weights.get_tensor(f"{source}{ours}.{what}"), what)

    def _outside(self, weights: Any, name: str, rank: int, tensor: int) -> torch.Tensor:
        sharded = {"embedding.word_embeddings.weight": "model.embed_tokens", "output_layer.weight": "lm_head"}
        if name in sharded:
            return weights.get_tensor(f"{sharded[name]}.weight").chunk(tensor)[rank]
        what = name.removeprefix("decoder.final_layernorm.")
        return self._norm(weights.get_tensor(f"model.norm.{what}"), what)

    def _norm(self, weight: torch.Tensor, what: str) -> torch.Tensor:
        """Nemotron's LayerNorm stores its weight less one."""
        return weight if self.gated or what == "bias" else weight + 1


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """Nemotron's activation."""
    return torch.nn.functional.relu(x).square()


class Generator:
    """megatron-core's own inference engine; `serve_rank` is what every rank but the first does."""

    def __init__(self, path: str, tensor: int, pipeline: int) -> None:
        """Join, load, and be ready to generate; raises what is wrong with layout or checkpoint."""
        on_cpu()
        self.rank = join(tensor * pipeline)
        begun = time.monotonic()
        import megatron.core.inference.communication_utils as communication
        import megatron.core.tensor_parallel.random as cuda_random
        from megatron.core import parallel_state
        from megatron.core.inference.contexts import StaticInferenceContext
        from megatron.core.inference.engines.static_engine import StaticInferenceEngine
        from megatron.core.inference.model_inference_wrappers.gpt.gpt_inference_wrapper import GPTInferenceWrapper
        from megatron.core.inference.model_inference_wrappers.inference_wrapper_config import InferenceWrapperConfig
        from megatron.core.inference.text_generation_controllers.text_generation_controller import (
            TextGenerationController,
        )

        communication._is_cuda = communication._is_cuda_contiguous = lambda _: None
        cuda_random.CudaRNGStatesTracker.fork = lambda *_, **__: contextlib.nullcontext()
        parallel_state.initialize_model_parallel(tensor, pipeline)
        checkpoint = Checkpoint(path)
        model = checkpoint.model(tensor, pipeline)
        length = min(CONTEXT, checkpoint.configuration["max_position_embeddings"])
        settings = InferenceWrapperConfig(
            hidden_size=checkpoint.configuration["hidden_size"],
            params_dtype=torch.float32,
            inference_batch_times_seqlen_threshold=-1,
            padded_vocab_size=checkpoint.configuration["vocab_size"],
            inference_max_requests=MOST_REQUESTS,
            inference_max_seq_length=length,
        )
        wrapper = GPTInferenceWrapper(model, settings, StaticInferenceContext(MOST_REQUESTS, length))
        self.tokenizer = checkpoint.tokenizer
        self.engine = StaticInferenceEngine(TextGenerationController(wrapper, self.tokenizer), legacy=True)
        say(f"Loaded {path} on rank {self.rank} in {time.monotonic() - begun:.1f} s")

    def generate(self, prompts: list[str], *, tokens: int, top_k: int, top_p: float, **more: Any) -> dict[str, Any]:
        """On rank 0, with the others in `follow`: text, tokens and segments, prompts included."""
        from megatron.core.inference.text_generation_server.run_mcore_engine import run_mcore_engine

        options = {"temperature": 1.0, "logprobs": False, "random_seed": -1, **more}
        return run_mcore_engine(
            self.engine,
            prompts,
            options["temperature"],
            top_k,
            0.0 if top_k else top_p,
            options["logprobs"],
            tokens,
            0,
            options["random_seed"],
        )

    def follow(self) -> None:
        """On every other rank: take part in one generation."""
        from megatron.core.inference.text_generation_server.run_mcore_engine import run_mcore_engine

        run_mcore_engine(self.engine)


def up_to(text: str, start: int, ends: list[str]) -> str:
    """The text up to and with the first of the strings after `start`, as NeMo's sampling stops there."""
    found = [text.find(end, start) + len(end) for end in ends if end and end in text[start:]]
    return text[: min(found)] if found else text
