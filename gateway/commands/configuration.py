"""What all commands have in common: a configuration file, and options named after its settings."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.config import Config, load_config, tuned_file

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subcommands = Any


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Any option whose `dest` is `section.key` sets that key."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file; see config.example.toml")


def configuration(options: argparse.Namespace, model_sources: Sequence[str] = ()) -> Config:
    """Raises `ConfigError`."""
    return load_config(
        options.config,
        flags=_given_flags(options),
        model_sources=model_sources,
        tuned=tuned_file(options.config),
    )


def _given_flags(options: argparse.Namespace) -> dict[tuple[str, str], Any]:
    """Options named `section.key` that were given."""
    flags = {}
    for name, value in vars(options).items():
        section, dot, key = name.partition(".")
        if dot and value is not None:
            flags[section, key] = value
    return flags
