"""What a user gets wrong: one line with the name, the value, what is allowed. By table; nothing is compiled, nothing written."""

import contextlib
import io
import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

from metapt import (
    Stage,
    check_hypergradient,
    data,
    hypergrad,
    meta,
    models,
    objectives,
    recipes,
    solvers,
    stages,
    updates,
)
from metapt.checks import real, whole
from metapt.cli import main
from metapt.io.errors import UserError
from metapt.io.experiment import check_data

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
GOOD = Stage(lambda params, context, extra, batch, key: (params**2, extra), optax.sgd(0.1))
PREDICT = objectives.stateless(lambda params, context, x: x)
NETWORK = models.linear(2, 1)


def _one_line(error, message):
    text = str(error)
    assert message in text and "\n" not in text and len(text) < 400, text


def _run(objective=GOOD.objective, batches=jnp.zeros(2), key=KEY):
    stage = Stage(objective, optax.sgd(0.1))
    return hypergrad.unroll(stage)(stages.start(stage, jnp.ones(())), None, batches, key)


# Every parameter that is a count, or a number with bounds: (what builds it, its name, values that are refused).
COUNTS = {
    "truncate: last": lambda n: hypergrad.truncate(GOOD, n),
    "windowed: window": lambda n: hypergrad.windowed(GOOD, n),
    "implicit: batches": lambda n: hypergrad.implicit(GOOD, batches=n),
    "evolution: pairs": lambda n: hypergrad.evolution(0.1, n),
    "cg: max_steps": lambda n: solvers.cg(n),
    "minres: max_steps": lambda n: solvers.minres(n),
    "nystrom: rank": lambda n: solvers.nystrom(n, 0.1),
    "mlp: inputs": lambda n: models.mlp(n, (3,)),
    "mlp: a width": lambda n: models.mlp(3, (n,)),
    "projection: hidden": lambda n: models.projection(3, n, 2),
    "scattering: scales": lambda n: data.scattering(jnp.zeros((1, 8, 8)), n),
    "scattering: orientations": lambda n: data.scattering(jnp.zeros((1, 8, 8)), 1, n),
    "draw: steps": lambda n: data.draw(KEY, jnp.ones(3), n, 2),
    "draw: size": lambda n: data.draw(KEY, jnp.ones(3), 2, n),
    "plant_tasks: real": lambda n: data.plant_tasks(RNG, np.arange(4), n, 1),
    "split: train": lambda n: data.split(RNG, 10, {"train": n, "test": 2}),
    "balanced: n": lambda n: data.balanced(RNG, np.array([0, 1]), n),
    "n": lambda n: meta.sigmoid_weights(n),
}
NUMBERS = {
    "finite_difference: radius": lambda x: hypergrad.finite_difference(GOOD, radius=x),
    "central_differences: step": lambda x: hypergrad.central_differences(x),
    "evolution: sigma": lambda x: hypergrad.evolution(x, 2),
    "proximal: strength": lambda x: hypergrad.proximal(GOOD, strength=x),
    "neumann: step": lambda x: solvers.neumann(1, step=x),
    "nystrom: damping": lambda x: solvers.nystrom(1, x),
    "relative: share": lambda x: solvers.relative(x),
    "softmax_weights: total": lambda x: meta.softmax_weights(2, total=x),
    "example_weights: bound": lambda x: meta.example_weights(NETWORK, bound=x),
    "relative_example_weights: power": lambda x: meta.relative_example_weights(NETWORK, x),
    "positive: start": lambda x: meta.positive(x),
    "fraction: start": lambda x: meta.fraction(x),
    "contrastive: temperature": lambda x: objectives.contrastive(PREDICT, None, temperature=x),
    "lead_dropout: temperature": lambda x: data.lead_dropout(x),
}
FROM_ZERO = {
    "cg: tol": lambda x: solvers.cg(1, tol=x),
    "cg: damping": lambda x: solvers.cg(1, damping=x),
    "minres: tol": lambda x: solvers.minres(1, tol=x),
    "minres: damping": lambda x: solvers.minres(1, damping=x),
    "dense: damping": lambda x: solvers.dense(x),
    "from_jaxopt: ridge": lambda x: solvers.from_jaxopt("cg", ridge=x),
    "with_l2: strength": lambda x: objectives.with_l2(GOOD.objective, x),
    "with_teacher: decay": lambda x: objectives.with_teacher(GOOD.objective, x),
    "random_rotation: std": lambda x: data.random_rotation(x),
}
NOT_A_NUMBER = (float("nan"), float("inf"), "0.1", None, [1.0], True)


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    for value in (0, -1, 2.5, float("nan"), "3", None, True, [2]):
        with pytest.raises(ValueError) as error:
            COUNTS[name](value)
        _one_line(error.value, f"{name}={value!r} must be")


@pytest.mark.parametrize("name", [*NUMBERS, *FROM_ZERO])
def test_numbers(name):
    build = NUMBERS.get(name) or FROM_ZERO[name]
    for value in (*NOT_A_NUMBER, -1.0, *((0.0,) if name in NUMBERS else ())):
        if name == "softmax_weights: total" and value is None:
            continue  # the default
        with pytest.raises(ValueError) as error:
            build(value)
        _one_line(error.value, f"{name}={value!r} must be")


@given(
    st.one_of(
        st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2), st.integers()
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_comes_is_a_good_number_or_one_line(value):
    for check, good in (
        (lambda: whole("x", value), isinstance(value, int) and not isinstance(value, bool) and value >= 1),
        (
            lambda: real("x", value, above=0, below=1),
            isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1,
        ),
    ):
        if good:
            assert check() == value
            continue
        with pytest.raises(ValueError, match=r"^x=[^\n]*$"):
            check()


API = {
    # what a rule takes
    "a rule takes Stage": lambda: hypergrad.unroll(GOOD.objective),
    "a rule takes Stage(": lambda: hypergrad.implicit(optax.sgd(0.1)),
    "found function": lambda: hypergrad.fixed_point(GOOD.objective),
    "found NoneType": lambda: hypergrad.truncate(None, 2),
    "Stage: optimizer=0.1": lambda: hypergrad.unroll(Stage(GOOD.objective, 0.1)),
    "Stage: objective=3": lambda: hypergrad.unroll(Stage(3, optax.sgd(0.1))),
    "eps_root": lambda: hypergrad.unroll(Stage(GOOD.objective, optax.adam(0.1))),
    "sees signs only": lambda: hypergrad.fixed_point(Stage(GOOD.objective, optax.lion(0.1))),
    "remat: 'some' is not one of": lambda: hypergrad.unroll(GOOD, remat="some"),
    "'magic' is not one of": lambda: solvers.from_jaxopt("magic"),
    "step='best' must be": lambda: solvers.neumann(1, step="best"),
    "terms=-1 must be at least 0": lambda: solvers.neumann(-1),
    # what an objective returns, what a run is given
    "it must return (loss, extra), found": lambda: _run(lambda p, c, e, b, k: p**2),
    "extra came as None and must be returned alike, found {'n': ": lambda: _run(
        lambda p, c, e, b, k: ((p**2).sum(), {"n": jnp.zeros(3)})
    ),
    'with an entry "encoder", found a mapping with body': lambda: stages.transfer_encoder(
        stages.start(GOOD, {"body": jnp.ones(2)}), stages.start(GOOD, {}), None
    ),
    'with an entry "encoder", found ArrayImpl': lambda: stages.transfer_features(
        stages.start(GOOD, jnp.ones(2)), stages.start(GOOD, {}), None
    ),
    "the loss must be one floating number, found float64 [3]": lambda: _run(lambda p, c, e, b, k: (p * jnp.ones(3), e)),
    "found int64 []": lambda: _run(lambda p, c, e, b, k: (jnp.array(1), e)),
    "leading step axis": lambda: _run(batches=(jnp.zeros(2), jnp.zeros(3))),
    "found {None}": lambda: _run(batches=1.0),
    "found {0}": lambda: _run(batches=jnp.zeros(0)),
    "key: 0 must be a key": lambda: _run(key=0),
    "key: None must be a key": lambda: _run(key=None),
    "but the run has 2 steps": lambda: hypergrad.implicit(GOOD, batches=3)(
        stages.start(GOOD, jnp.ones(())), None, jnp.zeros(2), KEY
    ),
    "by_leaf: no rule for 'b'": lambda: hypergrad.by_leaf(GOOD, {"a": hypergrad.unroll})(
        stages.start(GOOD, 1.0), {"a": 1.0, "b": 2.0}, jnp.zeros(2), KEY
    ),
    "argnums=1": lambda: hypergrad.central_differences(0.1)(lambda a, b: a, argnums=1),
    "the last argument must be a key": lambda: hypergrad.evolution(0.1, 2)(lambda a, b: a)(jnp.ones(2), 3),
    "check_hypergradient: pretrain_steps=0": lambda: check_hypergradient(None, None, None, KEY, pretrain_steps=0),
    # models and metas
    "must name at least one width": lambda: models.mlp(3, ()),
    "edge_inputs=-1 at least 0": lambda: models.graph_network(2, -1, 3, 1),
    "dropout=1.0 from 0 to below 1": lambda: models.graph_network(2, 1, 3, 1, dropout=1.0),
    "an odd kernel": lambda: models.resnet1d(12, kernel=4),
    "group is float64 [2]": lambda: meta.grouped(meta.sigmoid_weights(3), [0.5, 1.0]),
    "group is int64 [2]": lambda: meta.grouped(meta.sigmoid_weights(3), [0, -1]),
    "must be two lists of one length": lambda: updates.random_search([0.0], [1.0, 2.0]),
    "low below high": lambda: updates.random_search([1.0], [0.0]),
    "low=[nan]": lambda: updates.random_search([float("nan")], [1.0]),
    "transfer='all' must be": lambda: recipes.task_weights.task_weights(
        encoder=NETWORK,
        features=1,
        tasks=2,
        classes=2,
        meta=meta.sigmoid_weights(2),
        pretrain_optimizer=optax.sgd(0.1),
        finetune_optimizer=optax.sgd(0.1),
        meta_optimizer=optax.sgd(0.1),
        transfer="all",
    ),
    # labels and splits
    "labels must be integers [N]: cast them, after those that are NaN": lambda: data.balanced(
        RNG, np.array([0, np.nan]), 2
    ),
    "y is float64 [4]": lambda: data.plant_tasks(RNG, np.ones(4), 1, 1),
    "y is int64 [2, 2]": lambda: data.balanced(RNG, np.ones((2, 2), int), 2),
    "y is <U1 [2]": lambda: data.balanced(RNG, np.array(["a", "b"]), 2),
    "all 4 labels are 1, but there must be at least two": lambda: data.plant_tasks(RNG, np.ones(4, int), 1, 1),
    "all 3 labels are 0": lambda: data.balanced(RNG, np.zeros(3, int), 3),
    "y has 0 labels": lambda: data.balanced(RNG, np.zeros(0, int), 1),
    "y has 2 labels from -1 on": lambda: data.plant_tasks(RNG, np.array([-1, 1]), 1, 1),
    "n=3 must be a multiple of the 2 classes": lambda: data.balanced(RNG, np.array([0, 1, 1]), 3),
    "sum to 12, but there are only 10": lambda: data.split(RNG, 10, {"train": 6, "test": 6}),
    "sizes is empty": lambda: data.split(RNG, 10, {}),
    "but there are only 0 examples": lambda: data.split(RNG, 0, {"train": 1}),
    "shares={'train': 0.0} must be above 0": lambda: data.scaffold_split(RNG, np.arange(4), {"train": 0.0}),
    "sum to at most 1": lambda: data.scaffold_split(RNG, np.arange(4), {"train": 0.6, "test": 0.6}),
    "must stay in 1..10": lambda: data.fold_split(np.array([0, 10]), np.array([1, 2])),
    "no record is in test": lambda: data.fold_split(np.array([1, 2]), np.array([1, 2])),
    "patient 7 has records in fold 10 and in another": lambda: data.fold_split(np.array([1, 10]), np.array([7, 7])),
    "size=1 must be at least 2": lambda: data.finetune_split(RNG, np.arange(4), np.arange(4), 1),
    "size=5 must be at least 2, and at most the 4": lambda: data.finetune_split(RNG, np.arange(4), np.arange(4), 5),
    "of patients that are not in train": lambda: data.finetune_split(RNG, np.arange(4), np.zeros(4, int), 4),
    "0 human proteins": lambda: data.species_split(np.full(20, 4932)),
    "found [3, 4]": lambda: data.draw(KEY, (jnp.ones(3), jnp.ones(4)), 1, 1),
    "found [0]": lambda: data.draw(KEY, jnp.ones((0, 2)), 1, 1),
    "the same rows [N, ...] with N >= 1, found [0]": lambda: data.draw(KEY, jnp.ones(()), 1, 1),
    "rotate: order=3 must be 1 (bilinear) or 2 (quadratic)": lambda: data.rotate(jnp.ones((2, 2)), 0.0, 3),  # type: ignore[arg-type]
    # an experiment's arrays
    "data: pool.y has 1 values of 4 that are NaN or infinite": lambda: check_data(
        {"pool": {"y": np.array([[1.0, 2.0], [np.nan, 4.0]])}}
    ),
    "data: x has 2 values of 2": lambda: check_data({"x": jnp.array([jnp.inf, -jnp.inf])}),
    "data: train is empty, [2, 0]": lambda: check_data({"train": np.zeros((2, 0))}),
    "same leading seed axis, found ['2', '3']": lambda: check_data({"a": np.zeros(2), "b": np.zeros(3)}),
    "found ['2', 'None']": lambda: check_data({"a": np.zeros(2), "b": np.zeros(())}),
    # files
    "there is no file or folder /nowhere": lambda: data.mnist("/nowhere"),
    "name='tox22' is not one of": lambda: data.molecules("tox22"),
    "molecules: there is no file /nowhere": lambda: data.molecules("tox21", "/nowhere"),
    "hu_bio: there is no folder /nowhere": lambda: data.hu_bio("/nowhere"),
    "ptbxl: there is no folder /nowhere": lambda: data.ptbxl("/nowhere"),
    "ppi_tissues: there is no file /nowhere": lambda: data.ppi_tissues("/nowhere"),
    "ptbxl_subset: there is no file /nowhere": lambda: data.ptbxl_subset("/nowhere"),
}


@pytest.mark.parametrize("message", API)
def test_the_library(message):
    with pytest.raises((ValueError, UserError)) as error:
        API[message]()
    _one_line(error.value, message)


def _npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


class _Bomb:
    def __reduce__(self):
        return (print, ("unpickled",))


X, Y = np.zeros((4, 28, 28), np.uint8), np.arange(4)
WHOLE = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}


def _archive(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


MNIST = {
    "empty": (b"", "no .npz archive, or damaged"),
    "text": (b"hello", "no .npz archive, or damaged"),
    "cut": (_npz(**WHOLE)[:-40], "no .npz archive, or damaged"),
    "a pickle": (pickle.dumps(_Bomb()), "no .npz archive, or damaged"),
    "pickled arrays": (_npz(**WHOLE | {"x_train": np.array([_Bomb()], object)}), "Object arrays cannot be loaded"),
    "lacks one": (_npz(x_train=X, y_train=Y), "holds of x_train, y_train, x_test, y_test only"),
    "no arrays in it": (_archive(dict.fromkeys((f"{name}.npy" for name in WHOLE), b"junk")), "x_train is no array"),
    "leads out of its folder": (_archive({"../x_train.npy": b"junk", "/etc/y_train.npy": b"junk"}), "only []"),
    "floats": (_npz(**WHOLE | {"x_train": X.astype(float)}), "x_train is float64 [4, 28, 28], but must be uint8"),
    "another size": (_npz(**WHOLE | {"x_test": X[:, :27]}), "x_test is uint8 [4, 27, 28]"),
    "no images": (_npz(**WHOLE | {"x_test": X[:0], "y_test": Y[:0]}), "x_test is uint8 [0, 28, 28]"),
    "labels are floats": (_npz(**WHOLE | {"y_train": Y + 0.5}), "y_train is float64 [4], but must be integer [4]"),
    "labels are NaN": (_npz(**WHOLE | {"y_train": np.full(4, np.nan)}), "must be integer [4]"),
    "labels are too few": (_npz(**WHOLE | {"y_test": Y[:3]}), "y_test is int64 [3]"),
    "a label too large": (_npz(**WHOLE | {"y_test": Y + 8}), "y_test has labels 8..11"),
    "a label below 0": (_npz(**WHOLE | {"y_test": Y - 1}), "y_test has labels -1..2"),
}


@pytest.mark.parametrize("case", MNIST)
def test_files(case, tmp_path, capsys):
    content, message = MNIST[case]
    (tmp_path / "mnist.npz").write_bytes(content)
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(ValueError) as error:
        data.mnist(tmp_path)
    _one_line(str(error.value).replace(str(tmp_path), "F"), message)
    assert sorted(tmp_path.parent.rglob("*")) == before and "unpickled" not in capsys.readouterr().out


@given(st.binary(max_size=300), st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_no_damage_to_a_file_goes_further_than_a_line(tmp_path_factory, junk, at):
    whole = _npz(**WHOLE)
    at %= len(whole)
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(whole[:at] + junk + whole[at + len(junk) :])
    with contextlib.suppress(ValueError):
        train, _ = data.mnist(path)
        assert train.x.shape == (4, 28, 28) and (train.y >= 0).all()


COMMANDS = {
    "": "arguments are required",
    "fly": "invalid choice: 'fly'",
    "run": "which CONFIG?",
    "doctor": "which CONFIG?",
    "run digit_tasks": "did you mean digits_tasks?",
    "run ../digits_tasks": "no config '../digits_tasks'",
    "run /etc/passwd": "no config '/etc/passwd'",
    "run nothing.py": "no config 'nothing.py'",
    "run nothing.json": "has no nothing.json",
    "run .": "no config '.'",
    "run digits_tasks --seed_s 3": "Unrecognized options: --seed_s",
    "run digits_tasks --noise-task 3": "did you mean --noise-tasks?",
    "run digits_tasks --pretrain-stps 3": "did you mean --pretrain-steps?",
    "run digits_tasks --frobnicate": "Unrecognized options: --frobnicate",
    "run digits_tasks --seeds many": "invalid literal for int()",
    "run digits_tasks --seeds 2.5": "invalid literal for int()",
    "run digits_tasks --seeds 0": "seeds=0 must be at least 1",
    "run digits_tasks --seeds -1": "seeds=-1 must be at least 1",
    "run digits_tasks --seeds": "Missing value",
    "run digits_tasks --seed -1": "seed=-1 must be at least 0",
    "run digits_tasks --meta-lr nan": "meta_lr=nan must be a finite number above 0",
    "run digits_tasks --meta-lr inf": "meta_lr=inf must be a finite number above 0",
    "run digits_tasks --meta-lr 0": "meta_lr=0.0 must be",
    "run digits_tasks --meta-lr fast": "could not convert string to float",
    "run digits_tasks --pretrain-lr -0.1": "pretrain_lr=-0.1 must be",
    "run digits_tasks --pretrain-steps -3": "pretrain_steps=-3 must be at least 1",
    "run digits_tasks --finetune-steps 0": "finetune_steps=0 must be at least 1",
    "run digits_tasks --outer-steps 0": "outer_steps=0 must be at least 21",
    "run digits_tasks --warm-up 500": "outer_steps=200 must be at least 501",
    "run digits_tasks --noise-tasks -1": "must be at least 0",
    "run digits_tasks --real-tasks 0": "real_tasks=0 must be at least 1",
    "run digits_tasks --batch 0": "batch=0 must be at least 1",
    "run digits_tasks --hidden 0": "hidden=0 must be at least 1",
    "run digits_tasks --train-labels 5000": "split: ",
    "run digits_tasks --neumann-terms -1": "neumann_terms=-1 must be at least 0",
    "run digits_tasks extra": "Unrecognized options: extra",
    "run digits_rotation --access 1.5": "access=1.5 must be at most 1",
    "run digits_tasks --access 1.5": "access=1.5 must be at most 1",
    "run digits_tasks --access 0.001": "access=0.001 leaves meta-learning no image",
    "run digits_rotation --std wide": "--std",
    "run digits_rotation --order 3": "Expected one of ('1', '2'); see",
    "run digits_rotation --access 0.001": "access=0.001 leaves meta-learning 0 images",
    "run digits_rotation --train-labels 55": "n=455 must be a multiple of the 10 classes",
    "run digits_rotation --pool 5000": "pool=5000 must be at most",
    "run digits_label_noise --noise 0.95": "must name levels from 0 to below 0.9",
    "run digits_label_noise --hidden 1300": "hidden=1300 must be at most 1296: 1397 images have 1296 coefficients",
    "run mnist_tasks --data /nowhere": "there is no file or folder /nowhere",
    "run ppi_tissues --data /nowhere": "there is no file /nowhere",
    "run ppi_tissues --access 0": "access=0.0 must be a finite number above 0",
    "run hu_bio --data /nowhere": "there is no folder /nowhere",
    "run ecg_small --data /nowhere": "there is no file /nowhere",
    "run toxcast_sider --labelled-share 0.9": "must be below 1",
    "resume": "the following arguments are required: DIR",
    "resume /nowhere": "/nowhere has no config.json",
    "resume /etc/passwd": "config.json cannot be read",
    "resume a b": "unrecognized arguments: b",
    "resume /nowhere --seeds 3": "unrecognized arguments: --seeds 3",
    "compare": "the following arguments are required: DIR",
    "compare /nowhere": "/nowhere has no result.json",
    "list --fast": "unrecognized arguments: --fast",
    "list digits_tasks": "unrecognized arguments: digits_tasks",
    "doctor digits_task": "did you mean digits_tasks?",
    "doctor digits_tasks --seeds 0": "seeds=0 must be at least 1",
    "run digits_tasks --out /dev/null": "exists and is not empty",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METAPT_DATA", raising=False)
    assert main(command.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("metapt: "), captured.err
    assert COMMANDS[command] in captured.err, captured.err
    assert not list(tmp_path.iterdir())


FIELDS = {
    '{"sedes": 1}': "no field 'sedes'; did you mean seeds?",
    '{"seeds": "many"}': "seeds='many' must be of type int",
    '{"seeds": "3"}': "seeds='3' must be of type int",
    '{"seeds": 2.5}': "seeds=2.5 must be of type int",
    '{"seeds": true}': "seeds=True must be of type int",
    '{"seeds": null}': "seeds=None must be of type int",
    '{"seeds": [3]}': "seeds=[3] must be of type int",
    '{"seeds": {}}': "seeds={} must be of type int",
    '{"seeds": 0}': "seeds=0 must be at least 1",
    '{"meta_lr": "fast"}': "meta_lr='fast' must be of type float",
    '{"meta_lr": false}': "meta_lr=False must be of type float",
    '{"meta_lr": NaN}': "meta_lr=nan must be a finite number",
    '{"meta_lr": Infinity}': "meta_lr=inf must be a finite number",
    '{"meta_lr": -1}': "meta_lr=-1 must be",
    "[]": "is not a run's configuration",
    '"text"': "is not a run's configuration",
    "3": "is not a run's configuration",
    "{": "cannot be read",
    "": "cannot be read",
    "\x00": "cannot be read",
}


@pytest.mark.parametrize("text", FIELDS)
def test_run_folders(text, tmp_path, capsys):
    whole = f'{{"config": "digits_tasks", "fields": {text}}}'
    (tmp_path / "config.json").write_text(whole)
    for command in (["resume", str(tmp_path)], ["run", str(tmp_path / "config.json"), "--out", str(tmp_path / "out")]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert FIELDS[text] in error and error.count("\n") == 1, error
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"] and (
        tmp_path / "config.json"
    ).read_text() == whole


@pytest.mark.parametrize("result", ["", "{", "[]", "3", "{}", '{"arms": {}}', "\xff"])
def test_results(result, tmp_path, capsys):
    (tmp_path / "result.json").write_bytes(result.encode("latin-1"))
    assert main(["compare", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "config.json").write_text(json.dumps({"config": "digits_tasks", "fields": {}}))
    assert main(["resume", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


MODULES = {
    "1 +": "does not load: SyntaxError",
    "x = 1": "lacks Config, METHOD, experiment",
    "import nothing_of_this_name": "does not load: ModuleNotFoundError",
    "raise ValueError('a\\nb')": "does not load: ValueError: a b",
    "raise SystemExit(3)": "does not load: SystemExit",
    "1 / 0": "does not load: ZeroDivisionError",
    "x = '\\x00": "does not load: SyntaxError",
}


@pytest.mark.parametrize("text", MODULES)
def test_config_files(text, tmp_path, capsys):
    (tmp_path / "broken.py").write_text(text)
    assert main(["run", str(tmp_path / "broken.py"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert MODULES[text] in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_there_are_many():
    tables = (API, MNIST, COMMANDS, FIELDS, MODULES)
    assert sum(map(len, tables)) + 8 * len(COUNTS) + 7 * len(NUMBERS) + 7 * len(FROM_ZERO) >= 400
