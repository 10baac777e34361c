"""The engine below the softmax losses: log-sum-exp over all pairs of rows, block by block.

For anchors i and candidates j, with s_ij = a_i . b_j and labels that say which pairs are positives,

    D_i = sum_{p in P(i)} e^{s_ip/tau} + k1 sum_{p in P(i)} e^{-s_ip}
          + w_n sum_{n in N(i)} e^{s_in/tau}

No more than a block of the N x N matrix is ever held. The forward pass accumulates D block by
block; the backward pass makes each block again and takes the gradient in closed form,

    d log D_i / d s_ip = (e^{s_ip/tau} / tau - k1 e^{-s_ip}) / D_i
    d log D_i / d s_in =  w_n e^{s_in/tau} / (tau D_i)

so that memory grows linearly with the rows. There are two forms: `symmetric.py`, the rows of one
batch against each other, and `rectangular.py`, anchors against any candidates. Several processes
that have the same rows can share the blocks out between them (`sharing.py`).
"""

from tcl_train.losses.blockwise.rectangular import rectangular_log_denominator
from tcl_train.losses.blockwise.sharing import WorkShare, current_share, work_shared
from tcl_train.losses.blockwise.symmetric import symmetric_log_denominator, unit_rows_fit
from tcl_train.losses.blockwise.tiles import TILES, Hardest, PairWeights, Tile

__all__ = [
    "TILES",
    "Hardest",
    "PairWeights",
    "Tile",
    "WorkShare",
    "current_share",
    "rectangular_log_denominator",
    "symmetric_log_denominator",
    "unit_rows_fit",
    "work_shared",
]
