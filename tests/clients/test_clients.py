"""Real clients at the gateway, each in the environment of requirements.txt."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemodeploy.app import gateway
from nemodeploy.core.openai_requests import read_request
from nemodeploy.core.openai_table import CHAT, FIELDS, TEXT
from tests.unit.app.test_gateway import Nemo, Rig

PYTHON = os.environ.get("NEMODEPLOY_CLIENTS_PYTHON", "")
pytestmark = [pytest.mark.clients, pytest.mark.skipif(not PYTHON, reason="make test-clients installs the clients")]
HERE = Path(__file__).parent
CLIENTS = ("openai", "langchain", "llama_index", "litellm", "autogen", "ag2", "lm_eval")
NAMES = """
import json
from openai.types import completion_create_params as text
from openai.types.chat import completion_create_params as chat
print(json.dumps([sorted({**one.CompletionCreateParamsBase.__annotations__, "stream": 0}) for one in (chat, text)]))
"""


@pytest.fixture
def rig() -> Iterator[Rig]:
    nemo = Nemo()
    one = Rig(nemo)
    yield one
    one.client.close()
    one.server.close()
    nemo.server.shutdown()
    nemo.server.server_close()


def run(*words: str, **variables: str) -> Any:
    # What would be fetched from elsewhere is not: prices of models, and data sets.
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "OTEL_SDK_DISABLED": "true"}
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **quiet, **variables}
    done = subprocess.run([PYTHON, *words], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("client", CLIENTS)
def test_it_is_answered_and_sends_what_is_recorded(rig: Rig, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    def noted(kind: str, raw: bytes, can: Any) -> Any:
        sent.append({"kind": kind, "body": json.loads(raw)})
        return read_request(kind, raw, can)

    monkeypatch.setattr(gateway, "read_request", noted)
    address = f"http://127.0.0.1:{rig.port}/v1"
    said = run(str(HERE / "talks.py"), client, OPENAI_BASE_URL=address, OPENAI_API_KEY=rig.key, OPENAI_MODEL="m")
    assert said
    assert set(said) == {"echo hi"}
    distinct = [one for place, one in enumerate(sent) if one not in sent[:place]]
    if "NEMODEPLOY_RECORD" in os.environ:
        Path(os.environ["NEMODEPLOY_RECORD"], f"{client}.json").write_text(json.dumps(distinct))
    else:
        assert distinct == json.loads((HERE / "sent.json").read_text())[client], (
            "NEMODEPLOY_RECORD=DIR writes what they send now"
        )


def test_the_table_has_every_field_of_the_client() -> None:
    for kind, names in zip((CHAT, TEXT), run("-c", NAMES), strict=True):
        assert set(names) <= set(FIELDS[kind])
