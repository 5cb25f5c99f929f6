"""Measures the gateway from outside: against mlx_lm.server, and while it is being stopped."""
