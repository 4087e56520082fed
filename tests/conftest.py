"""One ground for every test: fixed threads and seeds, no network, and nobody's own settings.

The cache of generated scenes (DETR_MINI_CACHE) is left where it is, so that scenes are drawn once.
"""

import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

SANDBOX = tempfile.TemporaryDirectory(prefix="detr_mini-tests-")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DETR_MINI_PROGRESS"] = "off"
for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "TORCH_HOME", "HF_HOME"):
    os.environ[name] = str(Path(SANDBOX.name, name.lower()))

import numpy as np  # noqa: E402 - threads are read when these are first imported
import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def fixed_ground() -> None:
    """Every test starts from the same random numbers and threads, whichever tests ran before it."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def is_here(host: object) -> bool:
    """Whether a host is this machine: a loopback address, its name, or none."""
    return host in (None, "", "localhost", "::1", b"localhost") or str(host).startswith("127.")


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """A test that reaches for the network fails, on machines that have one too. Loopback is allowed."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def connect_here(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_here(address[0]):
            raise OSError(f"tests have no network: connect to {address[0]}")
        connect(self, address)

    def look_up_here(host: object, *arguments: object, **options: object) -> list:
        if not is_here(host):
            raise OSError(f"tests have no network: look up {host}")
        return getaddrinfo(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        patch.setattr(socket, "getaddrinfo", look_up_here)
        yield
