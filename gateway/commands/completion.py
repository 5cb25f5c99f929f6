"""`mlx-gateway completion SHELL`: prints what makes the shell complete commands and options."""

import argparse
from collections.abc import Mapping
from functools import partial

from gateway.commands.configuration import Subcommands
from gateway.commands.output import say

HOW = """bash: eval "$(mlx-gateway completion bash)" in ~/.bashrc; zsh: the same with zsh in ~/.zshrc;
fish: mlx-gateway completion fish > ~/.config/fish/completions/mlx-gateway.fish"""

BASH = """_mlx_gateway() {{
  local words
  case "${{COMP_WORDS[1]}}" in
{cases}
  *) words="" ;;
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"; fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _mlx_gateway mlx-gateway"""

ZSH = "autoload -U +X compinit && compinit -u\nautoload -U +X bashcompinit && bashcompinit\n"


def add_to(commands: Subcommands) -> None:
    parser = commands.add_parser("completion", help="print a completion script for a shell", epilog=HOW)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.set_defaults(run=partial(run, commands))


def run(commands: Subcommands, options: argparse.Namespace) -> int:
    words = {name: _words(parser) for name, parser in commands.choices.items()}
    match options.shell:
        case "bash":
            say(_bash(words))
        case "zsh":
            say(ZSH + _bash(words))
        case _:
            say(_fish(words))
    return 0


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """Its options, and what its arguments may be."""
    words: list[str] = []
    for action in parser._actions:
        words += [option for option in action.option_strings if option.startswith("--")]
        if not action.option_strings and action.choices:
            words += map(str, action.choices)
    return words


def _bash(words: Mapping[str, list[str]]) -> str:
    cases = "\n".join(f'  {name}) words="{" ".join(own)}" ;;' for name, own in words.items())
    return BASH.format(cases=cases, commands=" ".join(words))


def _fish(words: Mapping[str, list[str]]) -> str:
    lines = [f'complete -c mlx-gateway -n __fish_use_subcommand -f -a "{" ".join(words)}"']
    for name, own in words.items():
        seen = f'complete -c mlx-gateway -n "__fish_seen_subcommand_from {name}"'
        lines += [f"{seen} -l {word[2:]}" if word.startswith("--") else f"{seen} -a {word}" for word in own]
    return "\n".join(lines)
