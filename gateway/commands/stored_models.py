"""What the commands about stored models have in common."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.commands.configuration import configuration
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.model_store.sources import HubSource, read_hub_id
from gateway.model_store.store_folders import StoreFolders, disk_errors_explained


@contextmanager
def opened_store(options: argparse.Namespace) -> Iterator[tuple[Config, StoreFolders]]:
    """The configured store; what the disk says becomes an error of the store."""
    config = configuration(options)
    with disk_errors_explained(config.store_directory):
        yield config, StoreFolders(config.store_directory)


def hub_source(named: str) -> HubSource:
    """Raises ConfigError unless it is `ID` or `ID@REVISION`."""
    if source := read_hub_id(named):
        return source
    raise ConfigError(f"{named!r} is no Hugging Face id. Write ORGANISATION/NAME, or ORGANISATION/NAME@REVISION.")
