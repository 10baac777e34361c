"""The losses. Each file holds a pure function and the module around it.

    loss = TCL(tau=0.1, k1=50000.0, k2=1.0)
    value = loss(z_ND, y_N)

Equal values in `y_N` mark rows that belong together. N: rows (images x views), D: embedding
dimensions.
"""

from tcl_train.losses.cross_entropy import CrossEntropy, cross_entropy_loss
from tcl_train.losses.ntxent import NTXent, ntxent_loss
from tcl_train.losses.supcon import SupCon, supcon_loss
from tcl_train.losses.tcl import TCL, tcl_loss

__all__ = [
    "TCL",
    "CrossEntropy",
    "NTXent",
    "SupCon",
    "cross_entropy_loss",
    "ntxent_loss",
    "supcon_loss",
    "tcl_loss",
]
