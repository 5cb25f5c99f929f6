"""mlx_lm.server with the BLAS the gateway would take, found by the same code from the same settings.

python -m loadtests.mlx_lm_server --model FOLDER --port N     and any other option of mlx_lm.server
"""

import sys

from gateway.config import load_config
from gateway.hardware.blas import load_blas


def main() -> None:
    config = load_config()
    blas = load_blas(config.hardware.blas, config.hardware.blas_threads)
    print(f"BLAS: {blas}", file=sys.stderr, flush=True)

    import mlx_lm.server  # only now: mlx takes the BLAS it finds

    mlx_lm.server.main()


if __name__ == "__main__":
    main()
