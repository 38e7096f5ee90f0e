"""Every public function, called as its example does but for one argument that is wrong: an answer, or an error about it."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import traceback

import jax.numpy as jnp
import numpy as np
import pytest

import metapt

WRONG = [None, -1, 0, 2.5, float("nan"), "x", (), {}, np.array([]), jnp.full((3, 3), jnp.nan), object(), lambda: None]
DOWNLOADS = {"mnist"}
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(metapt.__path__, "metapt.")
    if not module.name.endswith("__main__")
]
PUBLIC = {name for module in (metapt, *MODULES) for name in getattr(module, "__all__", ())}
EXAMPLES = {
    test.name: (module, test)
    for module in MODULES
    for test in doctest.DocTestFinder().find(module, module.__name__)
    if test.examples
    and test.name.rpartition(".")[2] in PUBLIC - DOWNLOADS
    and test.name.count(".") == module.__name__.count(".") + 1
}


class _Called(Exception):
    """Carries the arguments of a call."""


def _arguments(module, test):
    """What the example calls its function with first; nothing of the function is run."""
    name = test.name.rpartition(".")[2]

    def called(*positional, **named):
        raise _Called(positional, named)

    scope = vars(module) | {name: called}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for example in test.examples:
                exec(compile(example.source, test.name, "single"), scope)
    except _Called as call:
        return call.args
    return None


def test_most_public_functions_have_an_example_that_calls_them():
    assert len(EXAMPLES) > 120


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_wrong_argument_is_an_answer_or_an_error_about_it(name):
    """ValueError, TypeError, or that of an object which is not what it should be; none from deep inside."""
    module, test = EXAMPLES[name]
    call = _arguments(module, test)
    assert call, "the example does not call it"
    function = getattr(module, name.rpartition(".")[2])
    positional, named = call
    for place in (*range(len(positional)), *named):
        for wrong in WRONG:
            arguments = [wrong if i == place else x for i, x in enumerate(positional)]
            try:
                function(*arguments, **{key: wrong if key == place else x for key, x in named.items()})
            except (ValueError, TypeError):
                continue
            except Exception as error:
                about = isinstance(error, AttributeError) and type(wrong).__name__ in str(error)
                if (
                    not about and traceback.extract_tb(error.__traceback__)[-1].filename != test.name
                ):  # of the example's own
                    raise AssertionError(f"{name}, argument {place} = {wrong!r}") from error
