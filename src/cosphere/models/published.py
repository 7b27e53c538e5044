"""Published weights on the hub or a web server: whether this machine has them, can reach them, or what to do instead."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch

SECONDS = 5.0
"""How long a host may take to answer. Its own clients retry for a minute before they say that there is no network."""


class Source(NamedTuple):
    """The file with the published weights of a network."""

    address: str
    """Its URL."""
    file: Path | None
    """Its copy on this machine, or None."""
    on_hub: bool
    """Whether it is on the Hugging Face hub, whose cache is not meant for files placed by hand."""

    def advice(self) -> str:
        """How to provide the file by hand."""
        if self.on_hub:
            return f"download {self.address} and give the file's path (weights=PATH)"
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        return f"place {Path(self.address).name} (from {self.address}) in {folder} or give its path (weights=PATH)"


def source_of(facts: Any) -> Source | None:
    """Where a network's published weights are.

    Args:
        facts: timm's ``PretrainedCfg`` of the network, or None.

    Returns:
        None for a network without published weights.
    """
    if facts is None:
        return None
    if facts.hf_hub_id:
        from huggingface_hub import hf_hub_url, try_to_load_from_cache

        repository, _, revision = facts.hf_hub_id.partition("@")
        names = [facts.hf_hub_filename or "model.safetensors", "pytorch_model.bin"]
        copies = (try_to_load_from_cache(repository, name, revision=revision or None) for name in names)
        file = next((Path(copy) for copy in copies if isinstance(copy, str)), None)
        return Source(hf_hub_url(repository, names[0], revision=revision or None), file, on_hub=True)
    if isinstance(facts.url, str):
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(facts.url).name
        return Source(facts.url, file if file.is_file() else None, on_hub=False)
    return None


def unreachable(address: str, *, seconds: float = SECONDS) -> str | None:
    """Ask a host once for a file. Returns None if it answers, else the reason in a few words."""
    reason: list[str | None] = [f"no answer within {seconds:g} s"]

    def ask() -> None:
        try:
            with urlopen(Request(address, method="HEAD"), timeout=seconds):
                reason[0] = None
        except HTTPError:
            reason[0] = None  # the host answers; what is wrong with the file, its client says better
        except URLError as error:
            reason[0] = str(getattr(error.reason, "strerror", None) or error.reason)
        except Exception as error:
            reason[0] = str(error) or type(error).__name__

    # In a thread, because looking up a name obeys no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return reason[0]
