"""`python -m tcl_train` is `tcl-train`; this is what `torchrun` starts."""

import sys

from tcl_train.cli.main import main

sys.exit(main())
