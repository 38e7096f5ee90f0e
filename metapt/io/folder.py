"""The run folder: `config.json`, `metrics.jsonl`, `checkpoints/`, `plots/`, and `result.json` when the run is done."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from metapt.io.errors import UserError

_log = logging.getLogger("metapt")
_LOCK = ".lock"


class RunFolder:
    """Paths and files of one run; every write but the metrics log is whole or absent."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.plots = path / "plots"
        self.metrics = path / "metrics.jsonl"

    @classmethod
    @contextlib.contextmanager
    def create(cls, path: Path, config_name: str, config: Any) -> "Iterator[RunFolder]":
        """A new folder with its `config.json`, held while the block runs; refuses one that holds anything."""
        folder = cls(path)
        folder._refuse_contents()
        with folder.writing():
            path.mkdir(parents=True, exist_ok=True)
        with folder.locked():
            folder._refuse_contents()  # another process may have been faster
            saved = {"config": config_name, "fields": dataclasses.asdict(config), "versions": versions()}
            with folder.writing():
                folder.write_json("config.json", saved)
            yield folder

    def _refuse_contents(self) -> None:
        leftover = {_LOCK, ".config.json.part"}  # of a run that was killed as it began
        if self.path.exists() and (not self.path.is_dir() or {file.name for file in self.path.iterdir()} - leftover):
            raise UserError(
                f"--out {self.path} exists and is not empty; name a new folder, or continue it: metapt resume {self.path}"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; the system lets go when the process ends, however it ends."""
        with self.writing():
            file = (self.path / _LOCK).open("a")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.path} is in use by another run: wait for its end, or end it") from error
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What the system refuses to write becomes one line."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"{self.path} cannot be written ({reason}): make room or allow it, then: metapt resume {self.path}"
            ) from error

    @classmethod
    def open(cls, path: Path, name: str = "config.json") -> tuple["RunFolder", str, dict[str, Any]]:
        """An existing folder, the name of its config, and the config's fields."""
        saved = cls(path).read_json(name)
        if not isinstance(saved, dict) or not isinstance(saved.get("fields"), dict) or "config" not in saved:
            raise UserError(f'{path / name} is not a run\'s configuration ({{"config": ..., "fields": ...}})')
        changed = [
            f"{name} {old}" for name, old in (saved.get("versions") or {}).items() if versions().get(name) != old
        ]
        if changed:
            _log.warning("%s was begun with %s: other versions may give other last digits", path, ", ".join(changed))
        return cls(path), str(saved["config"]), saved["fields"]

    def read_json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError as error:
            raise UserError(f"{self.path} has no {name}; give the folder that `metapt run` printed last") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / name} cannot be read: {error}") from error

    def write_json(self, name: str, value: Any) -> None:
        part = self.path / f".{name}.part"
        part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
        os.replace(part, self.path / name)

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends one JSON object a line (NaN and infinities as null: they are counted elsewhere)."""
        with self.metrics.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def metrics_size(self) -> int:
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def truncate_metrics(self, size: int) -> None:
        """Forgets what was logged after the checkpoint."""
        if self.metrics.exists():
            os.truncate(self.metrics, size)

    def read_metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.metrics.read_text().splitlines()] if self.metrics.exists() else []


def versions() -> dict[str, str]:
    """Python and the packages that the numbers depend on."""
    packages = ("metapt", "jax", "jaxlib", "flax", "optax", "jaxopt", "numpy", "scikit-learn")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
