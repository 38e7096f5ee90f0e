"""The benchmark's own mathematics and bookkeeping; its times are for `make bench`."""

import itertools
import json

import numpy as np
import pytest

from benchmarks import cases, report, run, worker

FIELDS = ("case", "implementation", "cpu_seconds", "wall_seconds", "ratio", "first_call_seconds", "peak_mb")


def test_metapt_and_the_loop_by_hand_have_the_same_hypergradients():
    case = cases.load("mlp_k10", small=True)._replace(K=2, terms=2)
    found, truth = (worker.hypergradients(name, case) for name in ("metapt", "JAX by hand"))
    assert truth.dtype == np.float64 and len(truth) == 2 * 7 and (np.abs(truth) > 0).all()
    np.testing.assert_allclose(found, truth, rtol=1e-10)
    assert not np.allclose(truth[:7], truth[7:], rtol=1e-3)  # the second is of another state


class FakeWorker:
    """Answers as `benchmarks.worker` does, at once."""

    def __init__(self, what, case, implementation, core):
        self.implementation, self.what = implementation, what
        self.seconds = itertools.count({"metapt": 2.0, "JAX by hand": 1.0}.get(implementation, 4.0), 0.0)

    def read(self):
        return {"error": "not installed"} if self.implementation == "Betty" else {"first": 9.0}

    def repeat(self):
        return {"cpu": next(self.seconds), "wall": 5.0}

    def close(self):
        if self.what == "operations":
            return {"operations": 30.0, "plain_operations": 20.0}
        wrong = self.implementation == "higher"
        return {"hypergradients": [1.0, 2.0 + 1e-3 * wrong]} if self.what == "check" else {"peak_mb": 7.0}


def test_rows_have_their_fields_and_what_is_missing_or_wrong_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "Worker", FakeWorker)
    names = ["metapt", "JAX by hand", "Betty", "higher", "plain training"]
    rows = run.run_case("mlp", names, 3, 0, lambda text: None)
    by = {row["implementation"]: row for row in rows}
    assert all(set(FIELDS) <= set(by[name]) for name in ("metapt", "JAX by hand", "plain training"))
    assert by["metapt"]["ratio"] == 2.0 and by["metapt"]["difference"] == 0.0 and by["metapt"]["peak_mb"] == 7.0
    assert by["Betty"]["left_out"] == "not installed" and by["higher"]["left_out"].startswith("another hypergradient")

    report.write(rows, tmp_path, report.datetime.date(2026, 1, 1))
    assert report.read(tmp_path) == json.loads((tmp_path / "results.json").read_text()) == rows
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| `mlp` | metapt | 2000.0 | 3 | 0% | 2.00 |" in text and "Betty: not installed" in text
    assert "| `mlp` | 0.50 | 0.25 | 1.50 | 0.33 |" in text  # 2 s and 1 s over 4 s, 30 over 20 operations
    assert (tmp_path / "results.png").stat().st_size > 10_000


def test_an_unknown_case_is_named():
    with pytest.raises(ValueError, match="case 'mlpp' is not one of mlp, "):
        cases.load("mlpp")
