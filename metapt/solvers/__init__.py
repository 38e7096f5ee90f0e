"""6b. Inverse-Hessian products: each `solve(matvec, b) -> (x, SolveInfo)` for a symmetric `matvec`."""

from metapt.solvers.cg import cg
from metapt.solvers.dense import dense
from metapt.solvers.jaxopt_backend import from_jaxopt
from metapt.solvers.neumann import largest_eigenvalue, neumann

__all__ = ["cg", "dense", "from_jaxopt", "largest_eigenvalue", "neumann"]
