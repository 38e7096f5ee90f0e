"""Strict numerics for every test: float64 on, silent rank promotion off."""

import os
import tempfile
from pathlib import Path

# Small problems compile much longer than they run: programs compiled once are shared by workers and subprocesses.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "metapt-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import pytest


@pytest.fixture(autouse=True)
def _float64():
    """For the whole process: a context manager holds for its own thread, and XLA calls back into Python from another."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def shared_data():
    """A folder with the .npz files of real data sets, which do not ship with the project."""
    folder = Path(os.environ.get("METAPT_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "ppi_brain_tissues.npz").exists():
        pytest.skip(f"no data sets in {folder}: set METAPT_DATA")
    return folder
