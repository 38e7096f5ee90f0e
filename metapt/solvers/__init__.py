"""6b. Inverse-Hessian products: each `solve(matvec, b) -> (x, SolveInfo)` for a symmetric `matvec`."""

from metapt.solvers.cg import cg
from metapt.solvers.dense import dense
from metapt.solvers.jaxopt_backend import from_jaxopt
from metapt.solvers.minres import minres
from metapt.solvers.neumann import neumann
from metapt.solvers.nystrom import nystrom
from metapt.solvers.spectrum import largest_eigenvalue, relative

__all__ = ["cg", "dense", "from_jaxopt", "largest_eigenvalue", "minres", "neumann", "nystrom", "relative"]
