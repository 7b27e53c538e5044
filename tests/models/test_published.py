import http.server
import socket
import threading
import time
from pathlib import Path

import pytest
import timm
import torch

from cosphere.models import published
from cosphere.models.published import source_of, unreachable


class Answer(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_HEAD(self):
        self.asked.append(self.path)
        self.send_response(404 if "missing" in self.path else 200)
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(Answer, "asked", [])
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as here:
        threading.Thread(target=here.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{here.server_address[1]}"
        here.shutdown()


@pytest.mark.parametrize("file", ["weights.pth", "missing.pth"])
def test_a_host_that_answers_is_reachable_and_is_asked_once(server, file):
    assert unreachable(f"{server}/{file}") is None
    assert Answer.asked == [f"/{file}"]


def test_a_host_that_refuses_is_named_with_its_reason(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert unreachable(f"http://127.0.0.1:{port}/x") == "Connection refused"
    assert unreachable("http://") is not None


def test_a_host_that_keeps_silent_costs_the_seconds_and_no_more(monkeypatch):
    monkeypatch.setattr(published, "urlopen", lambda *asked, **more: time.sleep(30))
    began = time.monotonic()
    assert unreachable("http://example.invalid/x", seconds=0.2) == "no answer within 0.2 s"
    assert time.monotonic() - began < 5
    assert published.SECONDS <= 5


def test_where_the_files_of_timm_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    from cosphere.models import networks  # noqa: F401

    facts = timm.models.get_pretrained_cfg("bn_inception")
    source = source_of(facts)
    assert source.address == "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
    assert (source.file, source.on_hub) == (None, False)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    assert source.advice() == (
        f"place bn_inception-52deb4733.pth (from {source.address}) in {folder} or give its path (weights=PATH)"
    )
    folder.mkdir(parents=True)
    (folder / "bn_inception-52deb4733.pth").touch()
    assert source_of(facts).file == folder / "bn_inception-52deb4733.pth"
    assert source_of(None) is None
    hub = source_of(timm.models.get_pretrained_cfg("resnet50"))
    assert hub.on_hub
    assert hub.address.startswith("https://huggingface.co/timm/resnet50.")
    assert hub.address in hub.advice()
