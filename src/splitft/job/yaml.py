"""YAML for job files: plain values only, no key twice, numbers as YAML 1.2 writes them."""

from __future__ import annotations

import re
from typing import Any

import yaml

# PyYAML follows YAML 1.1, where 2e-4 is a string, 010 is 8 and `no` is false. These are YAML 1.2's rules,
# less its octal and hexadecimal forms and integers with leading zeros, which nobody means in a job.
_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_NUMBER_STARTS = list("-+.0123456789")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own way: filled below, never shared with SafeLoader)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or YAML 1.2 would read as something else."""


_Loader.add_implicit_resolver(_TAG + "null", _NULL, ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_TAG + "bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver(_TAG + "int", _INT, _NUMBER_STARTS)
_Loader.add_implicit_resolver(_TAG + "float", _FLOAT, _NUMBER_STARTS)
_Dumper.add_implicit_resolver(_TAG + "float", _FLOAT, _NUMBER_STARTS)


def _represent_str(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    # In its plain styles PyYAML leaves some line separators bare, and reads them back as spaces.
    return dumper.represent_scalar(_TAG + "str", value, style=None if value.isprintable() else '"')


_Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence(_TAG + "seq", value, True))
_Dumper.add_representer(str, _represent_str)


def parse_yaml(text: str) -> tuple[Any, list[str]]:
    """Read one YAML document; return its value and a line for each thing in it that a job may not hold.

    Values are dict (keys are strings), list, str, int, float, bool and None. Keys given twice, tags, anchors
    used twice and keys that are not plain names come back as problems, so that they can be reported beside
    others. Raises ValueError where the text is not YAML at all.
    """
    problems: list[str] = []
    try:
        node = yaml.compose(text, Loader=_Loader)
        return (None if node is None else _value(node, "", set(), problems)), problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"not valid YAML: {place}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ValueError("not a job: nested too deeply") from None


def dump_yaml(value: dict[str, Any]) -> str:
    """Write a mapping so that `parse_yaml` gives it back; lists on one line, key order kept."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31)
    return text


def _value(node: yaml.Node, path: str, seen: set[int], problems: list[str]) -> Any:
    where = f"{path or 'the job'} (line {node.start_mark.line + 1})"
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, where, problems)
    if id(node) in seen:  # an alias: needless in a job, and nested aliases can blow up
        problems.append(f"{where}: a YAML alias; write the value out")
        return None
    seen.add(id(node))
    if node.tag not in (_TAG + "map", _TAG + "seq"):
        problems.append(f"{where}: the tag {node.tag} is not allowed; write a plain value")
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, f"{path}[{i}]", seen, problems) for i, item in enumerate(node.value)]
    result: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(f"{path or 'the job'} (line {line}): a key must be a plain name")
            continue
        key: str = key_node.value
        key_path = f"{path}.{key}" if path else key
        if key in result:
            problems.append(f"{key_path}: given twice, on lines {lines[key]} and {line}; keep one")
        lines.setdefault(key, line)
        result[key] = _value(value_node, key_path, seen, problems)
    return result


def _scalar(node: yaml.ScalarNode, where: str, problems: list[str]) -> str | int | float | bool | None:
    text: str = node.value
    try:
        if node.tag == _TAG + "str":
            return text
        if node.tag == _TAG + "null":
            return None
        if node.tag == _TAG + "bool":
            return text.lower() == "true"
        if node.tag == _TAG + "int":
            return int(text)
        if node.tag == _TAG + "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        problems.append(f"{where}: the tag {node.tag} is not allowed; write a plain value")
    except ValueError:  # an explicit tag on another kind of text, or thousands of digits
        problems.append(f"{where}: not a number that can be read")
    return None
