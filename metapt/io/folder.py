"""The run folder: `config.json`, `metrics.jsonl`, `checkpoints/`, `plots/`, and `result.json` when the run is done."""

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from metapt.io.errors import UserError


class RunFolder:
    """Paths and files of one run; every write but the metrics log is whole or absent."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.plots = path / "plots"
        self.metrics = path / "metrics.jsonl"

    @classmethod
    def create(cls, path: Path, config_name: str, config: Any) -> "RunFolder":
        """A new folder with its `config.json`; refuses one that holds anything."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(
                f"--out {path} exists and is not empty; name a new folder, or continue it: metapt resume {path}"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = cls(path)
            folder.plots.mkdir()
            folder.write_json("config.json", {"config": config_name, "fields": dataclasses.asdict(config)})
        except OSError as error:
            raise UserError(f"--out {path} cannot be written: {error.strerror}") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> tuple["RunFolder", str, dict[str, Any]]:
        """An existing folder, the name of its config, and the config's fields."""
        saved = cls(path).read_json("config.json")
        if not isinstance(saved, dict) or not isinstance(saved.get("fields"), dict) or "config" not in saved:
            raise UserError(f'{path / "config.json"} is not a run\'s configuration ({{"config": ..., "fields": ...}})')
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
