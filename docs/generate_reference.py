"""Writes what the code says of itself into the pages: the verbs, the Python API, the papers.

    python docs/generate_reference.py

Parts of pages are marked (see marked.py):
    verb: distill                       usage and options of a verb, without importing torch
    api: doublure.verbs.distill       public functions and classes of a module, read off its text
    api: doublure.core.protocols:Site,Batch  the same, those named
    card: shaders                       paper and needs of a method
    reported: shaders                   the paper's own figures
    settings: shaders                   its settings, or those of a class by its full name
    methods: all                        the catalogue as a table
    needed: all                         what must be at hand, and the methods that need it
"""

import ast
import dataclasses
import html
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import marked

_WIDTH = 88
# The families of the catalogue, as the index and the navigation of the site list them.
_FAMILIES = {
    "recipes": "Whole recipes",
    "sources": "Sources: what is it shown?",
    "wrappers": "Wrappers: what is done to what it is shown?",
    "objectives": "Objectives: what must it match?",
    "transforms": "Transforms: how is it changed?",
    "initialisations": "Initialisations: what does it begin with?",
    "rules": "Rules: what happens between two steps?",
    "audits": "Audits: can it be trusted?",
}


def verb(name: str) -> str:
    """Return usage, help and options of a verb, "audit transfer" of one inside of a group."""
    command = _command(name)
    arguments = [part for part in command.params if part.param_type_name == "argument"]
    options = [part for part in command.params if part.param_type_name == "option"]
    usage = " ".join(["doublure", name, *(part.metavar for part in arguments), "[OPTIONS]"])
    lines = [str(command.help), "", "```text", usage, "```", ""]
    panels: dict[str, list[Any]] = {}
    for part in (*arguments, *options):
        if not getattr(part, "hidden", False):
            panels.setdefault(part.rich_help_panel or "", []).append(part)
    for panel, parts in panels.items():
        lines += [f"**{panel}**", ""] if panel else []
        lines += ["| option | takes | |", "| --- | --- | --- |"]
        lines += [*(_option(part) for part in parts), ""]
    return "\n".join(lines)


def api(target: str) -> str:
    """Return the documentation of a module's public names, or of those after the colon."""
    module, _, chosen = target.partition(":")
    wanted = [name for name in chosen.split(",") if name]
    path = marked.ROOT / "src" / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    nodes = {node.name: node for node in _public(ast.parse(file.read_text(encoding="utf-8")))}
    missing = set(wanted) - set(nodes)
    if missing:
        raise ValueError(f"{module} has no public {', '.join(sorted(missing))}")
    parts = []
    for name in wanted or nodes:
        node = nodes[name]
        parts.append(f"### {name}\n\n`from {_home(module, name)} import {name}`\n")
        parts.append(_class(node) if isinstance(node, ast.ClassDef) else _function(node))
    return "\n".join(parts)


def card(name: str) -> str:
    """Return the citation of a method, what it needs and how it is reached."""
    entry = _entry(name)
    lines = [f"**Paper.** {_linked(entry.card)}  "] if entry.card.paper else []
    lines += [
        f"**Needs.** {', '.join(entry.card.needs)}  ",
        f"**File.** `{entry.place}`  ",
        f"**Reached by.** `doublure {entry.verb}`",
    ]
    return "\n".join(lines)


def reported(name: str) -> str:
    """Return the figures that the paper of a method published."""
    figures = _entry(name).card.reported
    if not figures:
        return "The paper's figures for this part alone are not known to us."
    rows = [f"| {what} | {value:g} |" for what, value in figures.items()]
    return "\n".join(["| as published | |", "| --- | ---: |", *rows])


def settings(name: str) -> str:
    """Return the fields of a settings class: name, default, meaning."""
    if "." in name:
        module, _, title = name.rpartition(".")
        cls = getattr(importlib.import_module(module), title)
    else:
        cls = _entry(name).settings
    told = _arguments(inspect.getdoc(cls) or "")
    rows = []
    for field in dataclasses.fields(cls):
        meaning = told.get(field.name)
        if meaning is None:
            raise ValueError(f"{cls.__name__}.{field.name}: say what it means under its Args")
        # A bar of the text, as in KL(p || q), is not one of the table.
        meaning = meaning.replace("|", "&#124;")
        rows.append(f"| `{field.name}` | {_default(field)} | {meaning} |")
    return "\n".join(["| setting | default | |", "| --- | --- | --- |", *rows])


def methods(_: str) -> str:
    """Return the catalogue as one table for each family."""
    catalogue = importlib.import_module("doublure.catalogue")
    lines = []
    for family, title in _FAMILIES.items():
        lines += [f"## {title}", "", "| method | needs | paper |", "| --- | --- | --- |"]
        for entry in getattr(catalogue, family.upper()):
            paper = entry.card.paper.partition(":")[0] if entry.card.arxiv else "—"
            if entry.card.arxiv:
                paper = f"[{paper}]({_arxiv(entry.card.arxiv)})"
            needs = ", ".join(entry.card.needs)
            lines.append(f"| [{entry.name}]({entry.name}.md) | {needs} | {paper} |")
        lines.append("")
    return "\n".join(lines)


def needed(_: str) -> str:
    """Return, for each thing a method may need, the methods that need it."""
    catalogue = importlib.import_module("doublure.catalogue")
    asking: dict[str, list[str]] = {}
    for entry in catalogue.METHODS:
        for need in entry.card.needs:
            asking.setdefault(need, []).append(f"[{entry.name}](methods/{entry.name}.md)")
    rows = [f"| {_NEEDS[need]} | {', '.join(names)} |" for need, names in asking.items()]
    return "\n".join(["| needed | by |", "| --- | --- |", *rows])


_NEEDS = {
    "nothing": "nothing at all",
    "logits": "the teacher's answers (**logits**)",
    "features": "the teacher's inner layers (**features**)",
    "batchnorm": "**BatchNorm** layers in the teacher, with their statistics",
    "gradients": "**gradients** through the teacher, down to the image",
    "weights": "the teacher's **weights** themselves",
    "inputs": "the teacher's **input** contract: mean and standard deviation",
    "images": "**images** of some kind to learn from, once",
    "labels": "**labels** of the images shown, or the teacher's own in their place",
}

MAKERS: marked.Makers = {
    "verb": verb,
    "api": api,
    "card": card,
    "reported": reported,
    "settings": settings,
    "methods": methods,
    "needed": needed,
}


def verbs() -> list[str]:
    """Return the names of all verbs, those of a group as "group verb"."""
    return list(_verbs(_application(), ""))


@cache
def _application() -> Any:
    from typer.main import get_command

    return get_command(importlib.import_module("doublure.cli.main").app)


def _verbs(group: Any, before: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _verbs(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def _command(name: str) -> Any:
    command = _application()
    for part in name.split():
        command = command.commands[part]
    return command


def _option(part: Any) -> str:
    names, takes = ", ".join(part.opts), part.metavar or ""
    if part.param_type_name == "argument":
        names, takes = takes, ""
    told = [" ".join(str(part.help or "").split())]
    if part.required and part.param_type_name == "option":
        told.append("Required.")
    default = part.default if part.show_default is not False else None
    if not (default is None or default is False or default == []):
        told.append(f"Default: `{default}`.")
    # In backticks not every reader of Markdown lets a bar be escaped.
    cells = [html.escape(text).replace("|", "&#124;") for text in (names, takes)]
    codes = [f"<code>{cell}</code>" if cell else "" for cell in cells]
    return f"| {codes[0]} | {codes[1]} | {' '.join(told)} |"


def _home(module: str, name: str) -> str:
    """Return where a name is best imported from: the package itself, if it offers it."""
    offered = importlib.import_module("doublure")._HOMES.get(name)
    return "doublure" if module == f"doublure.{offered}" else module


def _public(module: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def _class(node: ast.ClassDef) -> str:
    lines = []
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    if _is_dataclass(node) and fields:
        given = [_assigned(item) for item in fields]
        lines.append(_block(_call(node.name, given, "")))
    else:
        made = [item for item in _methods(node) if item.name == "__init__"]
        lines += [_block(_signature(node.name, item)) for item in made]
    lines.append(_prose(ast.get_docstring(node)))
    for item in _methods(node):
        text = ast.get_docstring(item)
        if item.name.startswith("_") or (text is None and not _is_protocol(node)):
            continue
        line = f"* `{_signature(item.name, item, width=10_000)}`"
        lines.append(f"{line}: {text.splitlines()[0]}" if text else line)
    return "\n".join(lines) + "\n"


def _function(node: ast.FunctionDef) -> str:
    return f"{_block(_signature(node.name, node))}{_prose(ast.get_docstring(node))}\n"


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [item for item in node.body if isinstance(item, ast.FunctionDef)]


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(item) for item in node.decorator_list)


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base) == "Protocol" for base in node.bases)


def _assigned(item: ast.AnnAssign) -> str:
    text = f"{ast.unparse(item.target)}: {ast.unparse(item.annotation)}"
    return text if item.value is None else f"{text} = {ast.unparse(item.value)}"


def _signature(name: str, node: ast.FunctionDef, width: int = _WIDTH) -> str:
    said = node.args
    given = [*said.posonlyargs, *said.args]
    first_default = len(given) - len(said.defaults)
    texts = []
    for i, argument in enumerate(given):
        text = ast.unparse(argument)
        if i >= first_default:
            text += f" = {ast.unparse(said.defaults[i - first_default])}"
        if argument.arg != "self":
            texts.append(text)
    if said.kwonlyargs:
        texts.append(f"*{said.vararg.arg}" if said.vararg else "*")
    for argument, default in zip(said.kwonlyargs, said.kw_defaults, strict=True):
        text = ast.unparse(argument)
        texts.append(text if default is None else f"{text} = {ast.unparse(default)}")
    if said.kwarg:
        texts.append(f"**{ast.unparse(said.kwarg)}")
    answer = "" if node.returns is None or node.name == "__init__" else ast.unparse(node.returns)
    return _call(name, texts, answer, width)


def _call(name: str, texts: Sequence[str], answer: str, width: int = _WIDTH) -> str:
    end = f" -> {answer}" if answer else ""
    line = f"{name}({', '.join(texts)}){end}"
    if len(line) <= width:
        return line
    return "\n".join([f"{name}(", *(f"    {text}," for text in texts), f"){end}"])


def _block(text: str) -> str:
    return f"```text\n{text}\n```\n\n"


def _prose(text: str | None) -> str:
    """Return a docstring as Markdown: its sections of arguments and errors as lists."""
    if text is None:
        return ""
    lines = []
    for section in re.split(r"\n(?=(?:Args|Raises):\n)", text):
        head, _, rest = section.partition("\n")
        if head not in ("Args:", "Raises:"):
            lines.append(section)
            continue
        lines.append("" if head == "Args:" else "\nRaises:\n")
        lines += [f"* `{name}`: {meaning}" for name, meaning in _entries(rest)]
    return "\n".join(lines) + "\n"


def _entries(section: str) -> Iterator[tuple[str, str]]:
    """Yield name and meaning of each entry of a docstring's section."""
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(section).strip("\n")):
        name, _, meaning = entry.partition(": ")
        yield name, " ".join(meaning.split())


def _arguments(text: str) -> dict[str, str]:
    """Return what a docstring says under Args, by name."""
    _, _, rest = text.partition("\nArgs:\n")
    return dict(_entries(re.split(r"\n(?=\S)", rest)[0])) if rest else {}


def _default(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
        if isinstance(value, tuple) and len(value) > 6:
            return f"{len(value)} of them"
        if isinstance(value, float):
            return f"`{value:g}`"
        if isinstance(value, tuple) and all(isinstance(item, float) for item in value):
            return "`(" + ", ".join(f"{item:g}" for item in value) + ")`"
        return f"`{value!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory.__name__}()`"
    return "required"


def _entry(name: str) -> Any:
    catalogue = importlib.import_module("doublure.catalogue")
    for entry in catalogue.METHODS:
        if entry.name == name:
            return entry
    raise ValueError(f"the catalogue has no method '{name}'")


def _linked(paper: Any) -> str:
    if paper.arxiv is None:
        return str(paper.paper)
    mark = f"arXiv:{paper.arxiv}"
    return str(paper.paper).replace(mark, f"[{mark}]({_arxiv(paper.arxiv)})")


def _arxiv(number: str) -> str:
    return f"https://arxiv.org/abs/{number}"


def navigation(text: str) -> str:
    """Return mkdocs.yml with the pages of all methods, in the order of the catalogue."""
    catalogue = importlib.import_module("doublure.catalogue")
    lines = []
    for family in _FAMILIES:
        lines.append(f"      - {family.capitalize()}:")
        entries = getattr(catalogue, family.upper())
        lines += [f"          - methods/{entry.name}.md" for entry in entries]
    begin, end = "      # methods: make pages\n", "      # end\n"
    before, _, rest = text.partition(begin)
    return before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]


if __name__ == "__main__":
    marked.write(MAKERS)
    site = marked.ROOT / "mkdocs.yml"
    site.write_text(navigation(site.read_text(encoding="utf-8")), encoding="utf-8")
