from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from quarterdeck_workers.engine.builtin_server import EngineArguments, EngineServer


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    torch.set_num_threads(1)
    return _load("tiny")


@pytest.fixture(scope="session")
def replicas() -> ModuleType:
    return _load("replicas")


@pytest.fixture(scope="session")
def model_folder(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def server(model_folder: Path) -> Iterator[EngineServer]:
    server = EngineServer("tiny", EngineArguments(max_batch_size=4, max_waiting=64), "127.0.0.1")
    server.start()
    server.load(model_folder)
    yield server
    server.close()
