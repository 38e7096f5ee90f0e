"""Whatever ends a run, and whenever: it goes on to the same bits, or says in one line what to mend. Nothing is damaged."""

import errno
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from metapt.cli import main
from metapt.io import runner
from metapt.io.checkpoint import Checkpoints
from metapt.io.folder import RunFolder

CONFIG = str(Path(__file__).with_name("tiny_config.py"))
STEPS, CHUNK = 40, 4  # of an arm; a checkpoint comes after every chunk
LAST, BEFORE = 80, 78  # checkpoints of a run that got to its final evaluation
MOMENTS = int(os.environ.get("METAPT_KILLS", "3"))
CHILD = """
import sys, metapt.io.folder as folder, metapt.io.runner as runner, metapt.cli as cli
runner.SECONDS_BETWEEN_CHECKPOINTS = 0.0
log, resume, outcome = folder.RunFolder.log, runner._Runner.resume, runner._Runner.outcome
def trace(what):
    with open(sys.argv[1], "a") as file:
        print(what, file=file)
def traced_log(self, rows):
    rows = list(rows)
    log(self, rows)
    trace(40 * (rows[0]["arm"] == "meta") + rows[0]["step"])
def traced_resume(self):
    trace("begun")
    return resume(self)
def traced_outcome(self):
    trace("report")
    return outcome(self)
folder.RunFolder.log, runner._Runner.resume, runner._Runner.outcome = traced_log, traced_resume, traced_outcome
sys.exit(cli.main(sys.argv[2:]))
"""
pytestmark = pytest.mark.xdist_group("interruption")  # they share one finished run


@pytest.fixture(autouse=True)
def _float64():
    """The command line runs as a user's does, in float32 (replaces the fixture of conftest.py)."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["run", CONFIG, "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was interrupted before its final evaluation, with its last two checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr(runner._Runner, "outcome", _interrupt)
        assert main(["run", CONFIG, "--out", str(folder), "--quiet"]) == 130
    assert _checkpoints(folder) == [BEFORE, LAST]
    return folder


def _interrupt(*_):
    raise KeyboardInterrupt


def _checkpoints(folder):
    return sorted(int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdigit())


def _equal(folder, finished):
    found, expected = (json.loads((path / "result.json").read_text()) for path in (folder, finished))
    for result in (found, expected):
        del result["seconds"]
    return found == expected and _log(folder) == _log(finished)


def _log(folder):
    return (folder / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_killed_at_random_moments_a_run_resumes_to_the_same_bits(finished, tmp_path):
    """kill -9 in steps, in checkpoints, in the report; METAPT_KILLS=50 for the long version."""
    rng = np.random.default_rng(int(os.environ.get("METAPT_KILL_SEED", "0")))
    folder, trace, kills, runs, moments = tmp_path / "none", tmp_path / "trace", 0, 0, []
    environment = os.environ | {"TINY_PLOT_SECONDS": "0.5"}
    while kills < MOMENTS or not (folder / "result.json").exists():
        if not runs or (folder / "result.json").exists():
            runs += 1
            folder = tmp_path / f"run{runs}"
        command = ["resume", str(folder)] if folder.exists() else ["run", CONFIG, "--out", str(folder)]
        if not (folder / "config.json").exists():
            command = ["run", CONFIG, "--out", str(folder)]
        before = _checkpoints(folder)
        trace.write_text("")
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(trace), *command, "--quiet"], env=environment, stdout=subprocess.DEVNULL
        )
        # It begins, does its chunks, reports: a moment after one of these.
        events = 2 + math.ceil((2 * STEPS - max(before, default=0)) / CHUNK)
        until, delay = int(rng.integers(1, min(events, 10) + 2)), float(rng.uniform(0, 0.5))  # or after all of them
        while kills < MOMENTS and process.poll() is None:
            if trace.read_text().count("\n") >= until:
                time.sleep(delay)
                process.kill()
                break
            time.sleep(0.002)
        ended = process.wait()
        events = trace.read_text().splitlines()
        done = [int(line) for line in events if line.isdigit()]
        assert ended in (0, -signal.SIGKILL)
        if done:
            assert done[0] == max(before, default=0)  # nothing that a checkpoint has is repeated
            assert max(_checkpoints(folder), default=0) >= done[-1]  # and one comes after every chunk
        if ended:
            kills += 1
            moments.append((folder.name, events[-1]))
        if (folder / "result.json").exists():
            assert _equal(folder, finished)
    print(f"{kills} kills in {runs} runs: {moments}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of tensorstore's other readers
def test_a_damaged_checkpoint_is_seen_whatever_the_damage(stopped, tmp_path, caplog):
    logged = len(_log(stopped))

    def newest(path, logged=logged):
        checkpoints = Checkpoints(path)
        try:
            return checkpoints.newest(logged)
        finally:
            checkpoints.close()

    _, position, leaves = newest(shutil.copytree(stopped / "checkpoints", tmp_path / "whole"))
    passed_over = 0
    newer = stopped / "checkpoints" / str(LAST)
    files = [path.relative_to(newer) for path in sorted(newer.rglob("*")) if path.is_file()]
    damages = {
        "empty": lambda content: b"",
        "truncated": lambda content: content[: len(content) // 2],
        "flipped": lambda content: (
            content[: len(content) // 2] + bytes([255 - content[len(content) // 2]]) + content[len(content) // 2 + 1 :]
        ),
    }
    for i, file in enumerate(files):
        name, damage = list(damages.items())[i % 3]
        path = shutil.copytree(stopped / "checkpoints", tmp_path / f"{i}")
        damaged = path / str(LAST) / file
        if damaged.stat().st_size:
            damaged.write_bytes(damage(damaged.read_bytes()))
        caplog.clear()
        number, found, arrays = newest(path)
        if number == LAST:  # a file that nobody needs
            assert found == position and all(map(np.array_equal, arrays, leaves)), (file, name)
        else:
            passed_over += 1
            assert number == BEFORE and f"checkpoint {LAST} is damaged" in caplog.text
            assert not (path / str(LAST)).exists()
    assert passed_over >= 3
    short = shutil.copytree(stopped / "checkpoints", tmp_path / "short")
    assert newest(short, logged - 1)[0] == BEFORE  # the log lost its end
    assert newest(short, 0) is None and "starting over" in caplog.text


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(stopped, finished, tmp_path, caplog):
    folder = shutil.copytree(stopped, tmp_path / "damaged")
    for file in (folder / "checkpoints" / str(LAST)).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:7])
    assert main(["resume", str(folder), "--quiet"]) == 0
    assert "checkpoint 80 is damaged (" in caplog.text and _equal(folder, finished)


def test_one_process_a_folder(stopped, tmp_path, capsys):
    folder = shutil.copytree(stopped, tmp_path / "busy")
    before = sorted(folder.rglob("*"))
    with RunFolder(folder).locked():
        assert main(["resume", str(folder)]) == 2
    assert capsys.readouterr().err == f"metapt: {folder} is in use by another run: wait for its end, or end it\n"
    assert sorted(folder.rglob("*")) == before  # the lock was there from the first run
    new = tmp_path / "new"
    new.mkdir()
    with RunFolder(new).locked():
        assert main(["run", CONFIG, "--out", str(new)]) == 2
    assert "is in use" in capsys.readouterr().err and [path.name for path in new.iterdir()] == [".lock"]


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    stopped, finished, tmp_path, capsys, monkeypatch
):
    """A limit on the size of files stands in for the disk: the system refuses in the same calls."""
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    folder = shutil.copytree(stopped, tmp_path / "full")
    (folder / "checkpoints" / str(LAST)).rename(tmp_path / "away")  # four steps are left
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(_log(stopped)) - 1000, hard))
    try:
        status = main(["resume", str(folder), "--quiet"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    error = capsys.readouterr().err
    assert status == 2 and error.startswith(f"metapt: {folder} cannot be written (") and error.count("\n") == 1
    assert main(["resume", str(folder), "--quiet"]) == 0 and _equal(folder, finished)


def test_what_cannot_be_written_is_one_line(stopped, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    folder = shutil.copytree(stopped, tmp_path / "refused")
    monkeypatch.setattr(runner._Runner, "resume", refuse)
    assert main(["resume", str(folder)]) == 2
    assert "cannot be written (Read-only file system)" in capsys.readouterr().err
    assert main(["run", CONFIG, "--out", "/dev/null/run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_config_of_a_run_repeats_it(finished, tmp_path):
    assert main(["run", str(finished / "config.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert _equal(tmp_path / "again", finished)
    saved, again = (json.loads((path / "config.json").read_text()) for path in (finished, tmp_path / "again"))
    assert saved == again and saved["fields"]["seed"] == 0 and {"jax", "python", "numpy"} <= set(saved["versions"])


def test_other_versions_are_named(stopped, tmp_path, caplog):
    folder = shutil.copytree(stopped, tmp_path / "old")
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"versions": {"jax": "0.1"}}))
    RunFolder.open(folder)
    assert "was begun with jax 0.1" in caplog.text
