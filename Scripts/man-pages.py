#!/usr/bin/env python3
"""Man pages and completions of volip, from what the command says of itself.

man-pages.py VOLIP DIRECTORY: DIRECTORY/man/man1/volip.1 and one page a verb, and completions where
bash, zsh and fish look for them below share.
"""
import json
import pathlib
import subprocess
import sys

SHELLS = {"bash": "bash-completion/completions/volip", "zsh": "zsh/site-functions/_volip",
          "fish": "fish/vendor_completions.d/volip.fish"}
STATUSES = [
    ("0", "done; consistent"), ("1", "failed"), ("2", "inconsistent"),
    ("3", "needs recovery"), ("4", "in use"), ("5", "the host does not support it"),
    ("6", "unknown format"), ("64", "wrong usage"),
    ("128+n", "in a shell: ended by signal n"),
]


def escaped(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\n", " ")
    return "\\&" + text if text[:1] in (".", "'") else text


def name(argument):
    names = argument.get("names", [])
    texts = [("--" if n["kind"] == "long" else "-") + n["name"] for n in names]
    value = argument.get("valueName", "value")
    if argument["kind"] == "positional":
        return f"\\fI{escaped(value)}\\fR"
    shown = ", ".join(f"\\fB{escaped(text)}\\fR" for text in texts)
    return shown + (f" \\fI{escaped(value)}\\fR" if argument["kind"] == "option" else "")


def synopsis(argument):
    text = name({**argument, "names": [argument["preferredName"]]}
                if "preferredName" in argument else argument)
    if argument.get("isRepeating"):
        text += " ..."
    return f"[{text}]" if argument.get("isOptional") else text


def page(command, title, verbs):
    arguments = [a for a in command.get("arguments", []) if a.get("shouldDisplay", True)]
    lines = [f'.TH "{escaped(title.upper())}" 1 "" "volipmem"', ".SH NAME",
             f"{escaped(title)} \\- {escaped(command['abstract'])}", ".SH SYNOPSIS",
             f".B {escaped(title.replace('-', ' ', 1))}"]
    lines += [synopsis(argument) for argument in arguments] + (["\\fIverb\\fR ..."] if verbs else [])
    if command.get("discussion"):
        lines += [".SH DESCRIPTION"] + [escaped(line) for line in command["discussion"].split("\n")]
    if arguments:
        lines.append(".SH OPTIONS")
    for argument in arguments:
        lines += [".TP", name(argument), escaped(argument.get("abstract", ""))]
    if verbs:
        lines.append(".SH VERBS")
    for verb in verbs:
        lines += [".TP", f"\\fB{escaped(title)}\\-{escaped(verb['commandName'])}\\fR(1)",
                  escaped(verb["abstract"])]
    lines.append(".SH EXIT STATUS")
    for status, meaning in STATUSES:
        lines += [".TP", f"\\fB{status}\\fR", meaning]
    lines += [".SH SEE ALSO",
              "\\fBvolip\\fR(1)" if not verbs else ", ".join(
                  f"\\fBvolip\\-{verb['commandName']}\\fR(1)" for verb in verbs)]
    return "\n".join(lines) + "\n"


def main():
    tool, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    told = subprocess.run([tool, "--experimental-dump-help"], check=True, capture_output=True)
    command = json.loads(told.stdout)["command"]
    verbs = [verb for verb in command["subcommands"]
             if verb.get("shouldDisplay", True) and verb["commandName"] != "help"]
    manuals = directory / "man" / "man1"
    manuals.mkdir(parents=True, exist_ok=True)
    (manuals / "volip.1").write_text(page(command, "volip", verbs))
    for verb in verbs:
        title = f"volip-{verb['commandName']}"
        (manuals / f"{title}.1").write_text(page(verb, title, []))
    for shell, file in SHELLS.items():
        script = subprocess.run([tool, "--generate-completion-script", shell], check=True,
                                capture_output=True)
        target = directory / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(script.stdout)
    print(f"{len(verbs) + 1} man pages and {len(SHELLS)} completions in {directory}")


main()
