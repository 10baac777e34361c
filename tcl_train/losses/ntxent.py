"""The self-supervised contrastive loss of SimCLR."""

from __future__ import annotations

from torch import Tensor

from tcl_train.losses.supcon import SupCon, supcon_loss


def ntxent_loss(z_ND: Tensor, y_N: Tensor, *, tau: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy loss of a batch.

    With unit rows, s_ij = z_i . z_j, and j(i) the one other row with the value of row i:

        l_i = -log( e^{s_ij(i)/tau} / sum_{a != i} e^{s_ia/tau} )

    and the loss is the mean of l_i over the anchors that have a positive; 0 if none has. With
    more than one positive (three views or more, or labels) l_i is averaged over them, which is
    SupCon's L_out.

    Source: Chen et al. 2020 (SimCLR), equation 1; Khosla et al. 2020, equation 1.

    Args:
        z_ND: embeddings, any float dtype; rows are normalised here.
        y_N: int64; the views of one image share a value.
        tau: temperature, from 1e-6 to 1e6.

    Returns:
        A scalar, float64 for float64 input and float32 otherwise.
    """
    return supcon_loss(z_ND, y_N, tau=tau, form="out")


class NTXent(SupCon):
    """:func:`ntxent_loss` with a checked temperature: tau > 0."""

    def __init__(self, tau: float = 0.5) -> None:
        super().__init__(tau, form="out")

    def value(self, z_ND: Tensor, y_N: Tensor) -> Tensor:
        return ntxent_loss(z_ND, y_N, tau=self.tau)

    def extra_repr(self) -> str:
        return f"tau={self.tau:g}"
