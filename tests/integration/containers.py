"""What the tests of real containers share: their processes, images and registries."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
import yaml

from nemodeploy.sandbox.cluster import Sandbox
from nemodeploy.sandbox.place import Place
from tests.conftest import NAME, Home, make_home

H100 = ("--profile", "h100x16")


@contextlib.contextmanager
def boxed(factory: pytest.TempPathFactory, runtime: str) -> Iterator[Home]:
    """A home with a sandbox of its own whose cluster file names a runtime, which is unpacked where it stays."""
    home = make_home(factory.mktemp("home"), NEMODEPLOY_SANDBOX_DIR=str(factory.mktemp("own") / "box"))
    for words in (("install", runtime), ("up", "--runtime", runtime)):
        done = home.run("sandbox", *words, timeout=300)
        assert done.returncode == 0, done.stderr
    yield home
    assert home.run("sandbox", "down").returncode == 0


@pytest.fixture
def contained(box: Home) -> Iterator[Home]:
    """What the module's sandbox has; nothing is left behind."""
    yield box
    box.run("down", "--all")
    assert sandbox_of(box).exec("squeue", "--noheader").stdout == "", "a job was left behind"


def sandbox_of(home: Home) -> Sandbox:
    return Sandbox(Place(Path(home.environment["NEMODEPLOY_SANDBOX_DIR"])))


def servers(home: Home, *marks: str) -> list[int]:
    """The server programs in containers, on all nodes, as this machine numbers them; `marks`: what they have in their
    environment."""
    found, own = list[int](), Path("/").stat()
    wanted = {mark.encode() for mark in (f"SLURM_CONF={sandbox_of(home).place.slurm_conf}", *marks)}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            environment = (entry / "environ").read_bytes() if b"gpt_model_file" in words else b""
            if wanted <= set(environment.split(b"\0")) and not os.path.samestat((entry / "root/").stat(), own):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def spoilt(home: Home, tmp_path: Path, key: str, change: object) -> str:
    """The cluster file with another image or other mounts; its path."""
    document = yaml.safe_load((home.config / "clusters/sandbox.yaml").read_text())
    document[key] = change if isinstance(change, dict) else [*document[key], change]
    path = tmp_path / "spoilt.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def serve_and_leave_nothing(contained: Home) -> None:
    """Sixteen ranks answer from containers, and end."""
    contained.up(*H100)
    assert len(servers(contained)) >= 16
    assert contained.run("generate", NAME, "hello").stdout == "Hello! I am a tiny model on your cluster.\n"
    assert contained.run("down", NAME).returncode == 0
    assert servers(contained) == []


def kill_one(contained: Home) -> None:
    """One container is killed, and with it the deployment ends."""
    contained.up(*H100)
    os.kill(max(servers(contained)), 9)
    deadline = time.monotonic() + 60
    while servers(contained) and time.monotonic() < deadline:
        time.sleep(0.3)
    assert servers(contained) == []
    assert contained.wait_for("ENDED")["state"] == "ENDED"


def refuse(contained: Home, cluster: str, said: str) -> None:
    """The runtime cannot start a container with this cluster file, and why is said."""
    done = contained.run("up", *H100, "--cluster", cluster)
    assert done.returncode == 30, done.stderr
    assert said in done.stderr


@pytest.fixture
def layout(contained: Home) -> str:
    """The empty image as whoever builds images hands it over: an OCI layout, on the shared file system; its name."""
    place = sandbox_of(contained).place
    layer, directory = io.BytesIO(), place.shared / "layout"
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path in sorted((place.root / "image").rglob("*")):
            tar.add(path, str(path.relative_to(place.root / "image")), recursive=False)

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (directory / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        (directory / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layers = [blob(layer.getvalue(), "layer.v1.tar")]
    tree = {"type": "layers", "diff_ids": [layers[0]["digest"]]}
    config = {
        "architecture": {"x86_64": "amd64"}.get(os.uname().machine, "arm64"),
        "os": "linux",
        "rootfs": tree,
        "history": [{"created_by": "tests"}],
    }
    whole = {"schemaVersion": 2, "config": blob(json.dumps(config).encode(), "config.v1+json"), "layers": layers}
    manifest = blob(json.dumps(whole).encode(), "manifest.v1+json")
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"oci://{directory}"


PUSH = """
import hashlib, json, pathlib, sys, urllib.request
layout, address, user, password = sys.argv[1:]
manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
manager.add_password(None, f"http://{address}", user, password)
opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
def ask(method, url, data=None, kind="application/octet-stream"):
    return opener.open(urllib.request.Request(url, data, {"Content-Type": kind}, method=method))
blobs = pathlib.Path(layout, "blobs/sha256")
(manifest,) = json.loads(pathlib.Path(layout, "index.json").read_text())["manifests"]
for blob in blobs.iterdir():
    where = ask("POST", f"http://{address}/v2/own/empty/blobs/uploads/").headers["Location"]
    ask("PUT", f"{where}&digest=sha256:{blob.name}", blob.read_bytes())
docker = "application/vnd.docker.distribution.manifest.v2+json"  # who asks for no kind is given no other
whole = {**json.loads(blobs.joinpath(manifest["digest"][7:]).read_text()), "mediaType": docker}
whole["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
for layer in whole["layers"]:
    layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar"
ask("PUT", f"http://{address}/v2/own/empty/manifests/1", json.dumps(whole).encode(), docker)
"""
REGISTRY = "127.0.0.1:5077"
REGISTRY_CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}/storage}}}}
http: {{addr: ":{port}"}}
auth: {{htpasswd: {{realm: own, path: {root}/htpasswd}}}}
"""


@pytest.fixture
def registry(contained: Home, layout: str, tmp_path: Path) -> Iterator[str]:
    """A real registry on the login node that holds the image and lets one account in; the image's name there."""
    sandbox, root = sandbox_of(contained), tmp_path / "registry"
    root.mkdir()
    hashed = bcrypt.hashpw(b"canary-91c2", bcrypt.gensalt(4)).decode()
    (root / "htpasswd").write_text(f"$oauthtoken:{hashed}\n")
    (root / "config.yml").write_text(REGISTRY_CONFIG.format(root=root, port=REGISTRY.rpartition(":")[2]))
    serve = f"setsid nohup docker-registry serve {root}/config.yml >{root}/log 2>&1 </dev/null & echo $!"
    pid = sandbox.exec("sh", "-c", serve).stdout.strip()
    push = (sys.executable, "-c", PUSH, layout.removeprefix("oci://"), REGISTRY, "$oauthtoken", "canary-91c2")
    deadline = time.monotonic() + 20
    while (done := sandbox.exec(*push)).returncode and "refused" in done.stderr and time.monotonic() < deadline:
        time.sleep(0.2)
    assert done.returncode == 0, done.stderr
    yield f"docker://{REGISTRY}/own/empty:1"
    sandbox.exec("kill", pid)
