"""The losses. Each file holds a pure function and the module around it.

    loss = TCL(tau=0.1, k1=50000.0, k2=1.0)
    value = loss(z_ND, y_N)

Equal values in `y_N` mark rows that belong together. N: rows (images x views), D: embedding
dimensions.
"""

from tcl_train.losses.cross_entropy import CrossEntropy, cross_entropy_loss
from tcl_train.losses.hard import HardContrastive, hard_contrastive_loss
from tcl_train.losses.npairs import NPairs, npairs_loss
from tcl_train.losses.ntxent import NTXent, ntxent_loss
from tcl_train.losses.of_method import LossOfMethod
from tcl_train.losses.pair_loss import PairLoss
from tcl_train.losses.response import GradientResponse, gradient_response
from tcl_train.losses.simple import SimpleContrastive, simple_contrastive_loss
from tcl_train.losses.supcon import SupCon, supcon_loss
from tcl_train.losses.tcl import TCL, tcl_loss
from tcl_train.losses.triplet import Triplet, triplet_loss

__all__ = [
    "TCL",
    "CrossEntropy",
    "GradientResponse",
    "HardContrastive",
    "LossOfMethod",
    "NPairs",
    "NTXent",
    "PairLoss",
    "SimpleContrastive",
    "SupCon",
    "Triplet",
    "cross_entropy_loss",
    "gradient_response",
    "hard_contrastive_loss",
    "npairs_loss",
    "ntxent_loss",
    "simple_contrastive_loss",
    "supcon_loss",
    "tcl_loss",
    "triplet_loss",
]
