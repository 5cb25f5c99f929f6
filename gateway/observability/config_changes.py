"""What a configuration file that was read again has changed, in words for the log."""

import logging

import msgspec

from gateway.config import CHANGEABLE, Config, ModelConfig

log = logging.getLogger(__name__)

MODELS = ("model", "models")


def is_at_once(setting: str) -> bool:
    """Whether a setting, named as in `changed_settings`, takes effect without a restart."""
    section, _, key = setting.partition(".")
    if section == "models":
        return setting.rpartition(".")[2] in CHANGEABLE
    return setting == "log.level" or (section == "hardware" and key.startswith("pressure"))


def log_changes(before: Config, after: Config) -> None:
    changes = changed_settings(before, after)
    for name, change in changes.items():
        log.info("%s: %s, %s", name, change, "in force" if is_at_once(name) else "in force after a restart")
    if not changes:
        log.info("the configuration is as it was")


def changed_settings(before: Config, after: Config) -> dict[str, str]:
    """By `section.key`, such as `log.level`: "info -> debug"; by `models.ID.key` what is said of a model.

    What may hold secrets (a model's upstreams) is named without its values.
    """
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    changes = {}
    for section in old.keys() - set(MODELS):
        for key, value in old[section].items():
            if new[section][key] != value:
                changes[f"{section}.{key}"] = f"{value} -> {new[section][key]}"
    return dict(sorted((changes | _changed_models(before, after)).items()))


def _changed_models(before: Config, after: Config) -> dict[str, str]:
    old, new = ({_name(model): model for model in config.offered_models} for config in (before, after))
    changes = {f"models.{name}": "added" for name in new.keys() - old.keys()}
    changes |= {f"models.{name}": "removed" for name in old.keys() - new.keys()}
    for name in old.keys() & new.keys():
        for key in ModelConfig.__struct_fields__:
            was, now = getattr(old[name], key), getattr(new[name], key)
            if was != now:
                changes[f"models.{name}.{key}"] = f"{was} -> {now}" if key in CHANGEABLE else "changed"
    return changes


def _name(model: ModelConfig) -> str:
    return model.id or model.source or "the demo model"
