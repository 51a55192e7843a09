"""From YAML text to resources: every problem of every document with its field and line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml
from pydantic import ValidationError

from podwire_api.names import MONITOR_KIND, POOL_KIND
from podwire_api.networkmonitor import NetworkMonitor
from podwire_api.problems import InvalidResource, Path, Problem, field_name, placed_and_worded, shown

if TYPE_CHECKING:
    from podwire_api.agentpool import AgentPool

MAX_FILE_BYTES = 3_000_000
"""Twice what an object in a cluster may have."""

Resource: TypeAlias = "NetworkMonitor | AgentPool"
"""What people write."""

_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML as the API server reads it: dates stay text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 # overrides an attribute that PyYAML declares as an instance's
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load_file(path: FilePath) -> list[NetworkMonitor]:
    """The monitors of the file at `path`, at least one; its AgentPools are read, and mean nothing without a cluster.

    InvalidResource if it is unreadable or anything is wrong.
    """
    return _monitors(load_resources(path), str(path))


def load_documents(text: str, source: str) -> list[NetworkMonitor]:
    """As `load_file`, of a YAML text that problems call `source`."""
    return _monitors(load_resource_documents(text, source), source)


def load_resources(path: FilePath) -> list[Resource]:
    """The monitors and pools of the file at `path`, in order, at least one.

    InvalidResource if it is unreadable or anything is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise InvalidResource([Problem(str(path), None, "", f"is larger than {MAX_FILE_BYTES} bytes")])
        text = content.decode()
    except OSError as error:
        problem = Problem(str(path), None, "", f"cannot be read: {error.strerror}; check the path and its permissions")
        raise InvalidResource([problem]) from error
    except UnicodeDecodeError as error:
        problem = Problem(str(path), None, "", f"is not UTF-8 text (byte {error.start}); save it as UTF-8")
        raise InvalidResource([problem]) from error
    return load_resource_documents(text, str(path))


def load_resource_documents(text: str, source: str) -> list[Resource]:
    """The monitors and pools of a YAML text, in order, at least one; empty documents are passed over.

    `source` is what problems call the text. InvalidResource, with the problems of all documents, if anything is wrong.
    """
    problems: list[Problem] = []
    resources: list[Resource] = []
    names: dict[tuple[str, str], int] = {}
    for node, value, wrong in _documents(text, source):
        if wrong:
            problems += wrong
            continue
        if value is None:
            continue
        kind = value.get("kind") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind not in {MONITOR_KIND, POOL_KIND}:
            message = f"{shown(kind)} is not one of {MONITOR_KIND}, {POOL_KIND}"
            problems.append(Problem(source, _line(node, ("kind",)), "kind", message))
            continue
        model = _model(kind)
        try:
            resource = model.model_validate(value)
        except ValidationError as error:
            problems += _problems(error, model, node, source)
            continue
        name, line = resource.metadata.name, _line(node, ("metadata", "name"))
        if (resource.kind, name) in names:
            message = f"{shown(name)} is the name of the {resource.kind} in line {names[resource.kind, name]} already"
            problems.append(Problem(source, line, "metadata.name", message))
        names.setdefault((resource.kind, name), line)
        resources.append(resource)
    if not problems and not resources:
        problems.append(Problem(source, None, "", "holds no resource; a NetworkMonitor is expected"))
    if problems:
        raise InvalidResource(problems)
    return resources


def _model(kind: object) -> type[Resource]:
    if kind == POOL_KIND:
        from podwire_api.agentpool import AgentPool  # noqa: PLC0415 (an agent has no pools to read, but a start to make)

        return AgentPool
    return NetworkMonitor


def _monitors(resources: list[Resource], source: str) -> list[NetworkMonitor]:
    monitors = [resource for resource in resources if isinstance(resource, NetworkMonitor)]
    if not monitors:
        raise InvalidResource([Problem(source, None, "", "holds no NetworkMonitor; one is expected")])
    return monitors


def _documents(text: str, source: str) -> Iterator[tuple[yaml.Node, Any, list[Problem]]]:
    """Each document's node and plain value, or what is wrong with it as YAML."""
    nowhere = yaml.ScalarNode(f"{_TAG}null", "")
    try:
        loader = _Loader(text)
        while (node := loader.get_node() if loader.check_node() else None) is not None:
            wrong = list(_yaml_problems(loader, node, source))
            yield node, None if wrong else loader.construct_document(node), wrong
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"is not YAML: {error.problem or error.context}"
        yield nowhere, None, [Problem(source, mark.line + 1 if mark else None, "", message)]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        yield nowhere, None, [Problem(source, line, "", "has a character that YAML does not allow")]
    except RecursionError:
        yield nowhere, None, [Problem(source, None, "", "is nested too deeply")]
    except ValueError as error:
        yield nowhere, None, [Problem(source, None, "", f"has a number that cannot be read: {error}")]


def _yaml_problems(loader: _Loader, node: yaml.Node, source: str) -> Iterator[Problem]:
    """Keys given twice, and tags: what a loader would take silently, or turn into objects of Python."""
    done: set[int] = set()
    todo: list[tuple[Path, yaml.Node]] = [((), node)]
    while todo:
        path, node = todo.pop()
        if id(node) in done:
            continue
        done.add(id(node))
        if not _plain(loader, node):
            message = f"has the tag {node.tag.replace(_TAG, '!!')}, which has no meaning here; remove it"
            yield Problem(source, node.start_mark.line + 1, field_name(path), message)
        elif isinstance(node, yaml.SequenceNode):
            todo += [((*path, index), item) for index, item in reversed(list(enumerate(node.value)))]
        elif isinstance(node, yaml.MappingNode):
            yield from _repeated_keys(path, node, source)
            todo += [((*path, str(key.value)), item) for key, item in reversed(node.value)]
            todo += [(path, key) for key, _ in node.value]


def _repeated_keys(path: Path, node: yaml.MappingNode, source: str) -> Iterator[Problem]:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            message = f"is given in line {lines[key.value]} already; keep one of the two"
            yield Problem(source, line, field_name((*path, key.value)), message)
        lines.setdefault(key.value, line)


def _plain(loader: _Loader, node: yaml.Node) -> bool:
    """Whether `node` is what it looks like: no tag of its own, but for !!str."""
    if isinstance(node, yaml.ScalarNode):
        implicit = (node.style is None, node.style is not None)
        looks = loader.resolve(yaml.ScalarNode, node.value, implicit)  # type: ignore[no-untyped-call] # none in its stubs
        return node.tag in (looks, f"{_TAG}str")
    return node.tag == f"{_TAG}{'seq' if isinstance(node, yaml.SequenceNode) else 'map'}"


def _problems(error: ValidationError, model: type[Resource], node: yaml.Node, source: str) -> list[Problem]:
    details = error.errors(include_url=False)
    # Another kind's fields would all be wrong: only that it is another kind is worth saying.
    details = [detail for detail in details if detail["loc"][:1] in (("apiVersion",), ("kind",))] or details
    found = []
    for detail in details:
        if detail["type"] == "too_short" and detail["input"]:
            continue  # pydantic counts only the valid entries; each of the others has its own line
        path, message = placed_and_worded(detail, model)
        found.append(Problem(source, _line(node, path), field_name(path), message))
    return sorted(found, key=lambda problem: problem.line or 0)


def _line(node: yaml.Node, path: Path) -> int:
    """The line of what `path` leads to, or of the nearest thing around it that is there."""
    line = node.start_mark.line
    for step in path:
        if isinstance(node, yaml.MappingNode):
            # A merge (<<) puts what it brings in front: the last one is in force.
            pair = next(((key, value) for key, value in reversed(node.value) if key.value == step), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line
        else:
            break
    return line + 1
