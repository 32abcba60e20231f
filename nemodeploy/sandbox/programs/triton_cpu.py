"""Real Triton from the package nvidia-pytriton, as NeMo's deploy scripts start it: no torch, no GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def texts_of(values: np.ndarray, *, every: bool = False) -> list[str]:
    """A tensor of bytes as texts: the first of each row, or all."""
    rows = np.char.decode(values.astype(bytes), "utf-8")
    return [str(one) for row in rows for one in (row if every else row[:1])]


def serve(
    answer: Callable[[dict[str, np.ndarray]], dict[str, list[str]]],
    *,
    name: str,
    inputs: Sequence[tuple[str, type]],
    outputs: Sequence[str],
    address: str,
    port: int,
    most: int,
) -> None:
    """Serve one model until interrupted. `answer` gives a text per row for each output; an exception becomes text."""

    @batch
    def infer(**given: np.ndarray) -> dict[str, np.ndarray]:
        try:
            found = answer(given)
        except Exception as error:
            found = {outputs[0]: [f"An error occurred: {error}"] * len(given["prompts"])}
        return {key: np.array([[text.encode()] for text in texts], dtype=np.bytes_) for key, texts in found.items()}

    logging.basicConfig(level=logging.INFO)
    settings = TritonConfig(http_address=address, http_port=port, grpc_address="0.0.0.0", allow_gpu_metrics=False)
    triton = Triton(config=settings)  # in NeMo's own order: bound first, then started by `serve`
    triton.bind(
        model_name=name,
        infer_func=infer,
        inputs=tuple(Tensor(name=key, shape=(-1,), dtype=kind, optional=key != "prompts") for key, kind in inputs),
        outputs=tuple(Tensor(name=key, shape=(-1,), dtype=bytes) for key in outputs),
        config=ModelConfig(max_batch_size=most),
    )
    triton.serve()


def spoken(values: dict[str, Any], key: str, default: Any) -> Any:
    """A setting of the first row, or its default."""
    return values[key][0][0] if key in values else default
