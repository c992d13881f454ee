#!/usr/bin/env python3
"""Writes the man pages and the shell completion, from the tables that --help is made of as well.

Run it after a change to a flag, a command or a finding; a test compares.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from flannel.cli.findings import KINDS
from flannel.cli.main import parser, shared_flags
from flannel.options.flags import Flag
from flannel.options.table import FLAGS

DIST = Path(__file__).parent


def main() -> None:
    """Write all of it."""
    for name, text in files().items():
        path = DIST / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def files() -> dict[str, str]:
    """What belongs into each file, by its path below dist/."""
    return {
        "man/flanneld.8": _flanneld(),
        "man/flannel.8": _flannel(),
        # Under the names of the commands: bash-completion loads a file when its command is typed.
        "completions/bash/flannel": _flannel_completion(),
        "completions/bash/flanneld": _flanneld_completion(),
    }


def escape(text: str) -> str:
    """Text that troff shows as it is (groff_char(7)): - is a minus, no line begins with a dot."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text


def _page(name: str, summary: str, *sections: tuple[str, Iterable[str]]) -> str:
    lines = [
        '.\\" Made by dist/generate.py; do not edit.',
        f'.TH {name.upper()} 8 "" flannel "System Administration"',
        ".SH NAME",
        f"{name} \\- {escape(summary)}",
    ]
    for title, body in sections:
        lines += [f".SH {title}", *body]
    return "\n".join(lines) + "\n"


def _flag(flag: Flag) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB\\-{escape(flag.name)}\\fR \\fI{escape(flag.metavar)}\\fR"
    notes = [flag.variable, f"default {flag.default}" if flag.default else ""]
    yield escape(f"{flag.help} ({', '.join(filter(None, notes))})")
    if flag.no_effect or flag.refused:
        why = flag.no_effect or flag.refused
        yield escape(f"{'No effect' if flag.no_effect else 'Refused'}: {why}.")


def _flanneld() -> str:
    used = [flag for flag in FLAGS if not flag.no_effect and not flag.refused]
    rest = [flag for flag in FLAGS if flag.no_effect or flag.refused]
    return _page(
        "flanneld",
        "lease a subnet of the overlay network and carry packets to the other hosts",
        ("SYNOPSIS", ["\\fBflanneld\\fR [\\fB\\-FLAG\\fR=\\fIVALUE\\fR]..."]),
        (
            "DESCRIPTION",
            [
                "Leases a subnet for this host from etcd, writes subnet.env for docker, and keeps",
                "the kernel in step with the leases of all other hosts. Stopping it stops no packet,",
                "but those of the backend udp, which it carries itself.",
                ".PP",
                "A flag beats the variable that is named after it, which beats the default. Flags",
                "may begin with one dash or two. A BOOL is never a word of its own.",
            ],
        ),
        ("OPTIONS", [line for flag in used for line in _flag(flag)]),
        (
            "ACCEPTED FOR COMPATIBILITY",
            [line for flag in rest for line in _flag(flag)],
        ),
        (
            "EXIT STATUS",
            ["0 after SIGTERM or SIGINT, 2 for a flag or variable that cannot be used, or "
                "while another flanneld runs with the same files or device."],
        ),
        (
            "FILES",
            [
                ".TP",
                "/run/flannel/subnet.env",
                "The lease and the MTU, for docker.",
                ".TP",
                "/run/flannel/flanneld.sock",
                "Where \\fBflannel\\fR(8) asks; beside \\fB\\-subnet\\-file\\fR, for root alone.",
                ".TP",
                "/etc/default/flanneld",
                "Variables, with the unit of the distribution.",
            ],
        ),
        ("SEE ALSO", ["\\fBflannel\\fR(8)"]),
    )


def _commands() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Each command with the words that call it, what it does, and its parser."""

    def walk(
        within: argparse.ArgumentParser, words: str
    ) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
        for action in within._actions:
            if isinstance(action, argparse._SubParsersAction):
                helps = {each.dest: each.help or "" for each in action._choices_actions}
                for name, inner in action.choices.items():
                    yield f"{words}{name}", helps[name], inner
                    yield from walk(inner, f"{words}{name} ")

    yield from walk(parser(), "")


def _own_actions(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a command takes apart from what all do."""
    shared = {"help", "json", *(flag.name.replace("-", "_") for flag in shared_flags())}
    return [
        action
        for action in command._actions
        if action.dest not in shared and not isinstance(action, argparse._SubParsersAction)
    ]


def _flannel() -> str:
    commands: list[str] = []
    for words, text, command in _commands():
        if any(isinstance(each, argparse._SubParsersAction) for each in command._actions):
            continue
        own = _own_actions(command)
        synopsis = [f"\\fB{escape(words)}\\fR"]
        for each in own:
            word = each.option_strings[-1] if each.option_strings else str(each.metavar)
            value = f" {each.metavar}" if each.option_strings and each.metavar else ""
            optional = each.option_strings or each.nargs == "?"
            synopsis.append(escape(f"[{word}{value}]" if optional else f"{word}{value}"))
        commands += [".TP", " ".join(synopsis), escape(f"{text[0].upper()}{text[1:]}.")]
        for each in own:
            word = each.option_strings[-1] if each.option_strings else str(each.metavar)
            commands.append(escape(f"{word}: {each.help}."))
    findings: list[str] = []
    for name, kind in KINDS.items():
        findings += [".TP", f"\\fB{escape(name)}\\fR ({kind.severity})"]
        findings += [escape(f"Why: {kind.why}."), escape(f"Do: {kind.cure}.")]
    return _page(
        "flannel",
        "see and mend the overlay network of this host",
        ("SYNOPSIS", ["\\fBflannel\\fR \\fICOMMAND\\fR [\\fIARGUMENT\\fR]..."]),
        (
            "DESCRIPTION",
            [
                "Asks the flanneld of this host, etcd, the kernel and the other hosts, and says what",
                "it could not ask. Variables that flanneld\\(aqs unit has are read from",
                "/etc/default/flanneld and /run/flannel/options.env.",
            ],
        ),
        ("COMMANDS", commands),
        (
            "OPTIONS",
            [
                "Of every command, after its name:",
                ".TP",
                "\\fB\\-\\-json\\fR",
                "Print a JSON document.",
                *(line for flag in shared_flags() for line in _flag(flag)),
            ],
        ),
        ("FINDINGS OF CHECK", findings),
        ("EXIT STATUS", ["0 if all is well, 1 if not, 2 for a mistake on the command line."]),
        ("SEE ALSO", ["\\fBflanneld\\fR(8)"]),
    )


def _flannel_completion() -> str:
    shared = ["--json", "--help", *(f"--{flag.name}" for flag in shared_flags())]
    cases = []
    top: list[str] = []
    for words, _, command in _commands():
        if " " not in words:
            top.append(words)
        inner = [
            name
            for action in command._actions
            if isinstance(action, argparse._SubParsersAction)
            for name in action.choices
        ]
        options = [each.option_strings[-1] for each in _own_actions(command) if each.option_strings]
        cases.append(f"\t{words.replace(' ', chr(92) + ' ')}) words='{' '.join([*inner, *options])}' ;;")
    return f"""\
# bash completion for flannel(8). Made by dist/generate.py; do not edit.

_flannel() {{
	local current=${{COMP_WORDS[COMP_CWORD]}} called='' words='' word
	for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
		case $word in -*) ;; *) called="${{called:+$called }}$word" ;; esac
	done
	case $called in
	'') words='{" ".join(top)}' ;;
{chr(10).join(cases)}
	esac
	[[ $current == -* ]] && words="$words {" ".join(shared)}"
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -o default -F _flannel flannel
"""


def _flanneld_completion() -> str:
    return f"""\
# bash completion for flanneld(8). Made by dist/generate.py; do not edit.

_flanneld() {{
	local words='{" ".join(f"-{flag.name}" for flag in FLAGS if not flag.refused)}'
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}")
}}
complete -o default -F _flanneld flanneld
"""


if __name__ == "__main__":
    main()
