"""The command line: `metapt list | run | resume | compare | doctor`. Wrong input is one line and exit status 2."""

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import jax
import tyro

from metapt.io import configs, tables
from metapt.io.doctor import as_json, check_experiment
from metapt.io.errors import UserError
from metapt.io.folder import RunFolder
from metapt.io.mesh import over_mesh, parse_mesh
from metapt.io.runner import run_experiment
from metapt.recipes import METHODS


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    try:
        parsed, rest = _parser().parse_known_args(arguments)
        if rest and parsed.command not in (_run, _doctor):
            raise UserError(f"unrecognized arguments: {' '.join(rest)}")
        parsed.command(parsed, rest)
        return 0
    except UserError as error:
        print(f"metapt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("metapt: interrupted; `metapt resume DIR` continues a run from its last checkpoint", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="metapt", description="Learn the knobs of pre-training by gradient.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="{list,run,resume,compare,doctor}")

    listing = commands.add_parser("list", help="recipes and configs, one line each")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(command=_list)

    run = _add_for_config(commands, "run", "run a config", _run)
    run.add_argument("--out", type=Path, metavar="DIR", help="the run folder (default: runs/CONFIG-TIME)")
    _add_for_running(run)

    resume = commands.add_parser("resume", help="continue an interrupted run")
    resume.add_argument("folder", type=Path, metavar="DIR")
    _add_for_running(resume)
    resume.set_defaults(command=_resume)

    compare = commands.add_parser("compare", help="results of several runs side by side")
    compare.add_argument("folders", type=Path, metavar="DIR", nargs="+")
    compare.set_defaults(command=_compare)

    doctor = _add_for_config(commands, "doctor", "check the hypergradient of a config by every rule", _doctor)
    doctor.add_argument("--json", action="store_true", help="for programs")
    return parser


def _add_for_config(commands: Any, name: str, summary: str, command: Callable) -> argparse.ArgumentParser:
    """A command that takes CONFIG and its fields."""
    parser = commands.add_parser(name, help=summary, add_help=False, allow_abbrev=False)
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="a name from `metapt list`, or a path")
    parser.add_argument("-h", "--help", action="store_true", help="also lists the fields of CONFIG")
    parser.set_defaults(command=command, parser=parser, name=name)
    return parser


def _add_for_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mesh", metavar="SIZES", help="over many devices: seeds=8, data=8 or seeds=4,data=2")
    parser.add_argument("--quiet", action="store_true", help="print the run folder and nothing else")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _list(parsed: argparse.Namespace, rest: Sequence[str]) -> None:
    rows = [{"kind": "recipe", "recipe": method.name, **method._asdict()} for method in METHODS]
    for name, path in sorted(configs.available().items()):
        module = configs.load(str(path))
        summary = (module.__doc__ or "").strip().split("\n")[0]
        method = module.METHOD._asdict()
        rows.append({"kind": "config", "recipe": method["name"], **method, "name": name, "summary": summary})
    if parsed.json:
        print(
            json.dumps(
                [{key: row[key] for key in ("name", "kind", "summary", "citation", "slots")} for row in rows], indent=1
            )
        )
    else:
        tables.print_list(rows)


def _run(parsed: argparse.Namespace, rest: Sequence[str]) -> None:
    stored, module, config = _load_config(parsed, rest)
    name = Path(stored).stem
    experiment = _build_experiment(module, config, parsed.mesh)
    path = parsed.out or _free(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    with RunFolder.create(path, stored, config) as folder:
        _execute(experiment, name, config, folder, parsed.quiet)


def _resume(parsed: argparse.Namespace, rest: Sequence[str]) -> None:
    folder, config_name, fields = RunFolder.open(parsed.folder)
    module = configs.load(config_name)
    config = configs.build(module, fields)
    if (folder.path / "result.json").exists():
        _report(_result(folder), folder, parsed.quiet)
        return
    experiment = _build_experiment(module, config, parsed.mesh)
    with folder.locked():
        _execute(experiment, Path(config_name).stem, config, folder, parsed.quiet)


def _compare(parsed: argparse.Namespace, rest: Sequence[str]) -> None:
    results = {str(path): _result(RunFolder(path)) for path in parsed.folders}
    tables.print_comparison(results)


def _result(folder: RunFolder) -> dict[str, Any]:
    result = folder.read_json("result.json")
    if not isinstance(result, dict) or not {"name", "arms", "metric", "comparisons", "meta"} <= set(result):
        raise UserError(f"{folder.path}/result.json is not the result of a run")
    return result


def _doctor(parsed: argparse.Namespace, rest: Sequence[str]) -> None:
    _, module, config = _load_config(parsed, rest)
    experiment = _build_experiment(module, config)
    _keep_compiled()
    with _choices_said():
        check = check_experiment(experiment, config.seed)
    print(json.dumps(as_json(check), indent=1) if parsed.json else check)


def _load_config(parsed: argparse.Namespace, rest: Sequence[str]) -> tuple[str, ModuleType, Any]:
    """What CONFIG names, as a run folder keeps it; its module; its dataclass with the fields of the command line.

    CONFIG may be the `config.json` of a run: then the fields of that run are the defaults. `--help` ends here.
    """
    if parsed.config is None or parsed.config.startswith("-"):
        if parsed.help:
            parsed.parser.print_help()
            parsed.parser.exit()
        raise UserError(f"{parsed.name}: which CONFIG? `metapt list` shows them")
    stored, fields = parsed.config, None
    if Path(parsed.config).suffix == ".json":
        _, stored, fields = RunFolder.open(Path(parsed.config).parent, Path(parsed.config).name)
    module = configs.load(stored)
    if parsed.help:
        parsed.parser.print_help()
    prog = f"metapt {parsed.name} {parsed.config}"
    default = None if fields is None else configs.build(module, fields)
    return _stored(stored), module, _parse_fields(module, [*rest, *(["--help"] if parsed.help else [])], prog, default)


def _execute(experiment: Any, name: str, config: Any, folder: RunFolder, quiet: bool) -> None:
    _keep_compiled()
    with contextlib.nullcontext() if quiet else _choices_said(), folder.writing():
        result = run_experiment(experiment, name, config.seed, folder, quiet)
    _report(result, folder, quiet)


def _keep_compiled() -> None:
    """Compiled programs are kept for the next run, unless JAX was told where already (JAX_COMPILATION_CACHE_DIR)."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "metapt" / "xla"))


def _report(result: dict[str, Any], folder: RunFolder, quiet: bool) -> None:
    if not quiet:
        tables.print_result(result)
        print(f"plots: {', '.join(sorted(path.name for path in folder.plots.glob('*.png')))}")
    print(folder.path)


def _build_experiment(module: ModuleType, config: Any, mesh: str | None = None) -> Any:
    try:
        experiment = module.experiment(config)
        return experiment if mesh is None else over_mesh(experiment, parse_mesh(mesh))
    except ValueError as error:
        raise UserError(str(error)) from error


def _parse_fields(module: ModuleType, arguments: Sequence[str], prog: str, default: Any = None) -> Any:
    """The config's dataclass from `--field value ...`; tyro's panel of an error becomes one line."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            known = {} if default is None else {"default": default}
            return tyro.cli(module.Config, args=list(arguments), prog=prog, **known)
    except ValueError as error:  # from the dataclass's own checks
        raise UserError(str(error)) from error
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        # Lines of the panel continue each other; its rules (empty once stripped) part the message from further help.
        lines = [line.strip("│╭╮╰╯─|+- ") for line in captured.getvalue().split("\n")[1:]]
        text = re.sub(r"(\s*;)+\s*", "; ", " ".join(line or ";" for line in lines)).strip("; ")
        text = re.split("; (?:Argument helptext|For full helptext|Perhaps you meant)", text)[0].removeprefix(
            "Error parsing Config: "
        )
        if text.startswith("Unrecognized options: --"):
            options = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(module.Config)]
            text = f"{text}; {configs.did_you_mean(text.split()[2].strip(','), options)}".rstrip("; ")
        raise UserError(f"{text.rstrip('.')}; see {prog} --help") from stop


def _stored(config: str) -> str:
    return config if config in configs.available() else str(Path(config).absolute())


def _free(path: Path) -> Path:
    number = 2
    while path.exists():
        path, number = path.with_name(f"{path.name.split('.')[0]}.{number}"), number + 1
    return path


class _Lines(logging.Handler):
    """To the stderr of the moment, which the progress bar redirects."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def _choices_said() -> Iterator[None]:
    """Shows what the library chose by itself (the loop), each choice once."""
    said: set[str] = set()

    def unsaid(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message in said or said.add(message))

    handler = _Lines()
    handler.addFilter(unsaid)
    logger = logging.getLogger("metapt")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
