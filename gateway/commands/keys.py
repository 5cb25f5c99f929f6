"""`mlx-gateway keys`: who may use the server. Works on the store's file; a running server notices."""

import argparse
import time
from datetime import datetime

from gateway.commands.configuration import Subcommands, add_config_options, configuration
from gateway.security.api_keys import ApiKeys, KeyRecord, KeySettings
from gateway.security.caller import Scope

DAY_SECONDS = 86400


def add_to(commands: Subcommands) -> None:
    group = commands.add_parser("keys", help="make, list and revoke API keys").add_subparsers(
        required=True, metavar="ACTION"
    )
    create = group.add_parser("create", help="make a key, which is shown this once")
    create.add_argument("--name", required=True, help="by which lists, logs and metrics call it")
    create.add_argument(
        "--scope",
        dest="scopes",
        action="append",
        choices=[scope.value for scope in Scope],
        help="what it is good for; may be given several times (default: inference); admin includes the others",
    )
    create.add_argument("--model", dest="models", action="append", default=[], help="it may use only these")
    for limit in ("requests-per-minute", "tokens-per-minute", "tokens-per-day"):
        create.add_argument(f"--{limit}", type=int, default=0, metavar="COUNT", help="0: no limit")
    create.add_argument("--priority", choices=["interactive", "normal", "background"], default="")
    create.add_argument("--days", type=float, help="after which it expires (default: never)")
    create.set_defaults(run=make)
    listing = group.add_parser("list", help="list the keys, without their secrets")
    listing.set_defaults(run=show)
    revoke = group.add_parser("revoke", help="make a key useless at once")
    revoke.add_argument("key", metavar="ID_OR_NAME")
    revoke.set_defaults(run=remove)
    for parser in (create, listing, revoke):
        add_config_options(parser)


def make(options: argparse.Namespace) -> int:
    settings = KeySettings(
        name=options.name,
        scopes=tuple(Scope(scope) for scope in options.scopes or ["inference"]),
        models=tuple(options.models),
        requests_per_minute=max(0, options.requests_per_minute),
        tokens_per_minute=max(0, options.tokens_per_minute),
        tokens_per_day=max(0, options.tokens_per_day),
        priority=options.priority,
        expires_at=time.time() + options.days * DAY_SECONDS if options.days is not None else None,
    )
    _, key = _keys(options).create(settings)
    print(key)  # noqa: T201
    return 0


def show(options: argparse.Namespace) -> int:
    keys = _keys(options)
    for record in keys.records:
        print(_line(record, keys.last_used_at(record.id)))  # noqa: T201
    return 0


def remove(options: argparse.Namespace) -> int:
    record = _keys(options).revoke(options.key)
    print(f"revoked {record.id} ({record.settings.name})")  # noqa: T201
    return 0


def _keys(options: argparse.Namespace) -> ApiKeys:
    return ApiKeys(configuration(options).store_directory)


def _line(record: KeyRecord, last_used_at: float | None) -> str:
    of = record.settings
    notes = [",".join(of.scopes), f"used {_day(last_used_at)}" if last_used_at else "not used yet"]
    if of.models:
        notes.append(f"only {', '.join(of.models)}")
    if of.expires_at:
        notes.append(f"{'expired' if record.expired(time.time()) else 'expires'} {_day(of.expires_at)}")
    return f"{record.id}  {of.name:24} {'; '.join(notes)}"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="minutes")
