"""What holds where nobody says otherwise."""

from __future__ import annotations

from nemodeploy.core.documents import Document

DEFAULTS = Document(
    {
        "time": "04:00:00",
        "port": 1424,
        "requeue": False,
        "grace": 10,
        "hang_timeout": "01:00:00",
        "root": "$HOME/.nemodeploy",
        "scheduler": "slurm",
        "runtime": "pyxis",
        "transport": "auto",
        "slurm": {"exclusive": True},
        "serving": {"max_length": 4096},
        "lease": {"minimum_s": 120},
        "storage_gb_per_s": 0.2,
    },
    source="built-in default",
)
