"""Train image encoders with contrastive losses, and measure them honestly.

    from tcl_train import load_encoder
    from tcl_train.losses import TCL

Importing this package is cheap: torch is loaded only when something needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder"]

if TYPE_CHECKING:
    from tcl_train.restore import load_encoder


def __getattr__(name: str) -> Any:
    if name == "load_encoder":
        from tcl_train.restore import load_encoder

        return load_encoder
    raise AttributeError(f"module 'tcl_train' has no attribute {name!r}")
