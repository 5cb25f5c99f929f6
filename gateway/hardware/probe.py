"""`python -m gateway.hardware.probe BLAS`: what mlx makes of this machine, as one line of JSON.

In a process of its own, because an mlx that does not suit the machine may end the process.
"""

import json
import sys

from gateway.config import HardwareConfig
from gateway.hardware.blas import BlasUnavailable, load_blas


def main(choice: str) -> None:
    try:
        blas = load_blas(choice, 0)
    except BlasUnavailable as error:
        sys.exit(f"hardware.blas: {error}")
    import mlx.core as mx

    from gateway.hardware.backend import detect_backend

    product = mx.ones((256, 256)) @ mx.ones((256, 256))
    works = bool((product == 256).all().item())
    sys.stdout.write(json.dumps({"works": works, "backend": str(detect_backend(HardwareConfig(), blas))}) + "\n")
    mx.clear_streams()


if __name__ == "__main__":
    main(sys.argv[1])
