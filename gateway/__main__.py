"""`python -m gateway` is the `mlx-gateway` command."""

import sys

from gateway.cli import main

sys.exit(main())
