"""The command `completion`: a script that makes a shell complete the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdiff.cli.fetching import SOURCES

if TYPE_CHECKING:
    from ckptdiff.cli.parser import CommandParser

EXAMPLES = """\
examples:
  eval "$(ckptdiff completion bash)"     in ~/.bashrc
  eval "$(ckptdiff completion zsh)"      in ~/.zshrc, behind compinit
  ckptdiff completion fish > ~/.config/fish/completions/ckptdiff.fish
"""

# Without a command, paths may stand where a command stands: what shtab has no words for.
_PATHS_TOO = {
    "bash": """
_shtab_ckptdiff_pos_0_COMPGEN=_ckptdiff_checkpoints
_shtab_ckptdiff_pos_0_nargs='*'
""",
    "zsh": """
functions[_shtab_ckptdiff_commands_alone]=$functions[_shtab_ckptdiff_commands]
_shtab_ckptdiff_commands() {
  _alternative 'commands:command:_shtab_ckptdiff_commands_alone' \
    'files:checkpoint:_ckptdiff_checkpoints'
}
""",
    "fish": """
complete -c ckptdiff -n _shtab_ckptdiff_using -F -a '(_ckptdiff_models)'
""",
}
# The ids of the models in the hub's cache, and what completes them beside files.
_CACHE = "${HF_HUB_CACHE:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub}"
_MODELS = {
    "bash": f"""
_ckptdiff_checkpoints() {{
  local folder name
  compgen -f -- "$1"
  for folder in "{_CACHE}"/models--*/; do
    name=${{folder%/}}
    name=${{name##*/models--}}
    name=${{name//--//}}
    [[ -d $folder && $name == "$1"* ]] && printf '%s\\n' "$name"
  done
}}
""",
    "zsh": f"""
_ckptdiff_checkpoints() {{
  local -a found
  found=("{_CACHE}"/models--*(N/:t))
  found=(${{found#models--}})
  found=(${{found//--//}})
  _alternative 'files:checkpoint:_files' 'models:model:compadd -a found'
}}
""",
    "fish": """
function _ckptdiff_models
  set -l cache ~/.cache
  set -q XDG_CACHE_HOME; and set cache $XDG_CACHE_HOME
  set cache $cache/huggingface
  set -q HF_HOME; and set cache $HF_HOME
  set cache $cache/hub
  set -q HF_HUB_CACHE; and set cache $HF_HUB_CACHE
  for folder in $cache/models--*/
    string replace -a -- -- / (string replace -r '.*/models--(.*)/$' '$1' -- $folder)
  end
end
function _ckptdiff_checkpoints
  __fish_complete_path (commandline -ct)
  _ckptdiff_models
end
""",
}
_CHECKPOINTS = {
    "bash": "_ckptdiff_checkpoints",
    "zsh": "_ckptdiff_checkpoints",
    "fish": "(_ckptdiff_checkpoints)",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and options of `completion` to a parser."""
    parser.description = "Print a script that makes a shell complete commands, options and paths."
    parser.epilog = EXAMPLES
    parser.add_argument("shell", choices=tuple(_PATHS_TOO), help="the shell that is to read it")


def run(options: argparse.Namespace) -> int:
    """Print the script; return 0."""
    print(completion_script(options.shell))
    return 0


def completion_script(shell: str) -> str:
    """Return the script for `bash`, `zsh` or `fish`."""
    import shtab

    parser = whole_parser()
    _mark_paths(parser, shtab)
    if shell != "zsh":  # there it has to stand before the script calls its function
        script = shtab.complete(parser, shell, preamble=_MODELS[shell])
        return f"{script}\n{_PATHS_TOO[shell]}"
    script = str(shtab.complete(parser, shell, preamble=_MODELS[shell] + _PATHS_TOO[shell]))
    # The second path, behind a first one that is no command.
    head, last_case, tail = script.rpartition("      esac\n  esac\n}\n")
    return f"{head}        *) _ckptdiff_checkpoints ;;\n{last_case}{tail}"


def whole_parser() -> CommandParser:
    """Return one parser of ckptdiff with all commands, to be read and not to parse with."""
    from ckptdiff.cli.main import COMMANDS, parser_of

    whole = parser_of(None)
    whole._remove_action(whole.operands[0])  # paths: argparse cannot have both
    commands = whole.add_subparsers(metavar="COMMAND")
    for name in COMMANDS:
        command = parser_of(name)
        added = commands.add_parser(
            name, parents=[command], description=command.description, epilog=command.epilog,
            help=command.description, add_help=False, prog=command.prog,
            formatter_class=command.formatter_class,
        )  # fmt: skip
        for action in added._actions:
            if (words := _words_of(name, action.dest)) and action.choices is None:
                action.choices = words
    return whole


def _words_of(command: str, argument: str) -> tuple[str, ...]:
    """Return words to complete an argument that takes others too."""
    from ckptdiff.demo import FAULTS
    from ckptdiff.guide.topics import topics

    words = {
        ("help", "topic"): tuple(topics()),
        ("demo", "fault"): FAULTS,
        ("diff", "tolerance"): ("exact", "cast"),
        ("logits", "device"): ("auto", "cpu", "cuda"),
        ("scores", "device"): ("auto", "cpu", "cuda"),
    }
    return words.get((command, argument), ())


def _mark_paths(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Mark every argument that is a file or a folder, as shtab wants it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_paths(command, shtab)
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.dest in SOURCES and action.type is Path:
            action.complete = _CHECKPOINTS  # type: ignore[attr-defined]
        elif action.type is Path or action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
