"""Renders the small part of Helm's template language that our chart uses, where the program itself can't be had.

Not Helm: values, `if`/`else`/`range`, and the functions named in `_call`. Anything else raises, so a template that
needs more is noticed.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_TAG = re.compile(r"(\s*)\{\{-\s*(.*?)\s*\}\}|\{\{\s*(.*?)\s*\}\}")
_BLOCKS = ("if ", "range ", "else", "end")


def render(template: Path, values: Mapping[str, Any], release: str = "pictures") -> list[Any]:
    """The documents that a template comes to; none when all of it is switched off."""
    parts = list(_parts(template.read_text(encoding="utf-8")))
    text, rest = _block(parts, {"Values": values, "Release": {"Name": release}})
    assert not rest, f"{template}: unbalanced blocks"
    return [document for document in yaml.safe_load_all(text) if document is not None]


def _parts(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    for tag in _TAG.finditer(text):
        trims = tag[2] is not None
        yield "text", text[at : tag.start()]
        yield "tag", (tag[2] if trims else tag[3])
        at = tag.end()
    yield "text", text[at:]


def _block(parts: list[tuple[str, str]], scope: Any) -> tuple[str, list[tuple[str, str]]]:
    """Text up to the `else` or `end` that closes the block, and the parts from there on."""
    out = ""
    while parts:
        kind, words = parts[0]
        if kind == "tag" and words.split()[0] in ("else", "end"):
            return out, parts
        parts = parts[1:]
        if kind == "text":
            out += words
        elif words.startswith("if "):
            text, parts = _choice(words[3:], parts, scope)
            out += text
        elif words.startswith("range "):
            items, body = _value(words[6:], scope), parts
            _, parts = _block(body, {**scope, ".": ""})
            out += "".join(_block(body, {**scope, ".": item})[0] for item in items)
            parts = parts[1:]
        else:
            out += _shown(_value(words, scope))
    return out, parts


def _choice(condition: str, parts: list[tuple[str, str]], scope: Any) -> tuple[str, list[tuple[str, str]]]:
    text, parts = _block(parts, scope)
    holds = bool(_value(condition, scope))
    _, words = parts[0]
    if words == "end":
        return (text if holds else ""), parts[1:]
    if words == "else":
        other, parts = _block(parts[1:], scope)
        return (text if holds else other), parts[1:]
    other, parts = _choice(words.removeprefix("else if "), parts[1:], scope)
    return (text if holds else other), parts


def _value(words: str, scope: Any) -> Any:
    piped: list[Any] = []
    for step in words.split(" | "):
        step = re.sub(r"\(([^()]*)\)", lambda m: json.dumps(_value(m[1], scope)).replace(" ", ""), step)
        name, *arguments = shlex.split(step, posix=False)
        given = [*(_atom(a, scope) for a in arguments), *piped]
        piped = [_call(name, given) if given else _atom(name, scope)]
    return piped[0]


def _atom(word: str, scope: Any) -> Any:
    if word == ".":
        return scope["."]
    if word.startswith("."):
        found = scope
        for key in word[1:].split("."):
            found = found[key]
        return found
    return json.loads(word)


def _call(name: str, given: list[Any]) -> Any:
    match name, given:
        case "quote", [value]:
            return json.dumps(str(value))
        case "add", [a, b]:
            return a + b
        case "eq", [a, b]:
            return a == b
        case "not", [a]:
            return not a
        case "and", values:
            return all(values)
        case "printf", [form, *values]:
            return form % tuple(values)
        case "toYaml", [value]:
            return yaml.safe_dump(value).strip()
        case "nindent", [width, text]:
            return "\n" + "\n".join(" " * width + line for line in text.splitlines())
    raise ValueError(f"the chart's test renderer knows no {name}")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
