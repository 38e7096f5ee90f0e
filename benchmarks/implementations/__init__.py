"""One meta-iteration of `benchmarks.cases`, in metapt, by hand in JAX, and in what a user of PyTorch would pick.

Every module has `prepare(case, float64) -> Run`.
"""
