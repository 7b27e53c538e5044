"""Where numbers come from."""

from __future__ import annotations

import json

import pytest

from cosphere.origins import provenance


def test_provenance_hides_where_files_lay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/cosphere", "train", "/home/someone/photos", "--name", "a/b"])
    assert provenance()["command"] == "cosphere train photos --name a/b"
    monkeypatch.setattr("sys.argv", ["cosphere", "train", "--runs=/home/someone/runs"])
    assert provenance()["command"] == "cosphere train --runs=runs"


def test_provenance_names_version_machine_and_time() -> None:
    found = provenance()
    assert found["cosphere"] == "0.1.0"
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_bytes"] > 2**20
    assert found["time"].endswith("+00:00")
    json.dumps(found)
