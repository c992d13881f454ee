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
            [
                "0 after SIGTERM or SIGINT, 2 for a flag or variable that cannot be used, or "
                "while another flanneld runs with the same files or device."
            ],
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
        "inspect and repair the overlay network of this host",
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


# $flag is the flag whose value is completed, typed as a word of its own or after =, which bash makes
# a word of its own as well.
_VALUES = """\
	local current=${COMP_WORDS[COMP_CWORD]} flag='' before=$((COMP_CWORD - 1))
	if [[ $current == = ]]; then
		current='' flag=${COMP_WORDS[before]}
	elif [[ ${COMP_WORDS[before]} == = ]]; then
		flag=${COMP_WORDS[before - 1]}
	elif [[ ${COMP_WORDS[before]} == -* ]]; then
		flag=${COMP_WORDS[before]}
	fi
	case ${flag#-} in"""

_COMPLETERS = {
    "FILE": 'compgen -f -- "$current"',
    "DIRECTORY": 'compgen -d -- "$current"',
    "NAME|ADDRESS": 'compgen -W "$(_flanneld_links)" -- "$current"',
    "text|json": 'compgen -W "text json" -- "$current"',
}
"""What bash completes the value of a flag with, by the flag's metavar."""


_BOOLEAN = """\
if [[ ${COMP_WORDS[before]} == = || ${COMP_WORDS[COMP_CWORD]} == = ]]; then
	mapfile -t COMPREPLY < <(compgen -W "true false" -- "$current")
else
	flag=''
fi"""
"""The next word is never the value of a boolean, only what follows =."""


def _value_cases(flags: Iterable[Flag]) -> Iterator[str]:
    """The branches of a `case`; none is completed for values that nobody can list."""
    by_reply: dict[str, list[str]] = {}
    for flag in flags:
        completer = _COMPLETERS.get(flag.metavar)
        reply = f"mapfile -t COMPREPLY < <({completer})" if completer else "COMPREPLY=()"
        by_reply.setdefault(_BOOLEAN if flag.metavar == "BOOL" else reply, []).append(flag.name)
    for reply, names in by_reply.items():
        yield f"\t{' | '.join(each for name in names for each in (name, f'-{name}'))})"
        yield from (f"\t\t{line}" for line in reply.split("\n"))
        yield "\t\t;;"


def _flannel_completion() -> str:
    shared = ["--json", "--help", *(f"--{flag.name}" for flag in shared_flags())]
    cases = []
    top: list[str] = []
    subnets: list[str] = []
    for words, _, command in _commands():
        if " " not in words:
            top.append(words)
        inner = [
            name
            for action in command._actions
            if isinstance(action, argparse._SubParsersAction)
            for name in action.choices
        ]
        own = _own_actions(command)
        if words == "docker-opts":
            cases.append("\tdocker-opts) words='-f -d -i -c -m -k' shared='--json --help' ;;")
            continue
        options = [each.option_strings[-1] for each in own if each.option_strings]
        cases.append(
            f"\t{words.replace(' ', chr(92) + ' ')}) words='{' '.join([*inner, *options])}' ;;"
        )
        if any(each.metavar == "SUBNET" for each in own):
            subnets.append(words)
    return f"""\
# bash completion for flannel(8). Made by dist/generate.py; do not edit.

_flannel_subnets() {{
	timeout 3 flannel leases --json 2>/dev/null | sed -n 's/^ *"subnet": "\\([0-9./]*\\)",*$/\\1/p'
}}

_flannel() {{
{_VALUES}
{chr(10).join(_value_cases(shared_flags()))}
	*) flag='' ;;
	esac
	[[ -z $flag ]] || return
	local called='' words='' word shared='{" ".join(shared)}'
	for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
		case $word in -*) ;; *) called="${{called:+$called }}$word" ;; esac
	done
	case $called in
	'') words='{" ".join(top)}' ;;
{chr(10).join(cases)}
	esac
	[[ $current == -* ]] && words="$words $shared"
	case ${{called%% *}} in
	{" | ".join(subnets)}) [[ $current == -* ]] || words="$words $(_flannel_subnets)" ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -o default -F _flannel flannel
"""


def _flanneld_completion() -> str:
    used = [flag for flag in FLAGS if not flag.refused]
    return f"""\
# bash completion for flanneld(8). Made by dist/generate.py; do not edit.

# compgen expands its words, and a link may have any name.
_flanneld_links() {{
	find /sys/class/net -mindepth 1 -printf '%f\\n' | grep -x '[[:alnum:]_.@-]*'
}}

_flanneld() {{
{_VALUES}
{chr(10).join(_value_cases(used))}
	*) flag='' ;;
	esac
	[[ -z $flag ]] || return
	local words='-help {" ".join(f"-{flag.name}" for flag in used)}'
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -o default -F _flanneld flanneld
"""


if __name__ == "__main__":
    main()
