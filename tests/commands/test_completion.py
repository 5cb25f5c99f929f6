"""What bash completes with the script that is printed; the others' scripts name the same words."""

import subprocess

import pytest

from gateway.cli import COMMANDS, main


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["mlx-gateway", "ser"], ["serve", "service"]),
        (["mlx-gateway", "serve", "--po"], ["--port"]),
        (["mlx-gateway", "service", "un"], ["uninstall"]),
        (["mlx-gateway", "service", "nothing"], []),
    ],
)
def test_bash(line: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = " ".join(f"'{word}'" for word in line)
    ask = f'COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _mlx_gateway; printf "%s\\n" "${{COMPREPLY[@]}}"'
    run = subprocess.run(
        ["bash", "-c", f"{script('bash', capsys)}\n{ask}"], capture_output=True, text=True, timeout=20, check=True
    )
    assert sorted(run.stdout.split()) == expected


def test_zsh_and_fish_know_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("zsh", "fish"):
        text = script(shell, capsys)
        assert all(module.__name__.rsplit(".", 1)[1].split("_")[0] in text for module in COMMANDS)
    assert '"__fish_seen_subcommand_from serve" -l port' in script("fish", capsys)
