"""llama.cpp's own HTTP server from the package xllamacpp, with llama-server's options."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import xllamacpp


def options(words: list[str]) -> argparse.Namespace:
    """Those of llama-server that are used."""
    parser = argparse.ArgumentParser(prog="llama-server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ctx-size", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--n-gpu-layers", type=int, default=0)
    parser.add_argument("--special", action="store_true")
    return parser.parse_args(words)


def main() -> None:
    """Serve until killed."""
    given = options(sys.argv[1:])
    if not Path(given.model).exists():
        raise FileNotFoundError(f"Can't find {given.model}")
    settings = xllamacpp.CommonParams()
    settings.model.path = given.model
    settings.hostnames = [given.host]
    settings.port = given.port
    settings.n_ctx, settings.n_parallel = given.ctx_size, given.parallel
    settings.model_alias = {given.alias}
    settings.cpuparams.n_threads = 1
    settings.endpoint_metrics, settings.special = True, given.special
    server = xllamacpp.Server(settings)
    sys.stdout.write(f"main: server is listening on {server.listening_address}\n")
    sys.stdout.flush()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
