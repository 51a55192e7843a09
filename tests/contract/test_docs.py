"""What the documents name is there: links, paths, samples, targets, options, metrics, constants, messages."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from podwire_agent import cli
from podwire_agent.exposition import Exposition
from podwire_agent.negotiation import Format
from podwire_agent.pair_rows import MEASURED
from podwire_agent.sinks.naming import REASONS
from podwire_agent.sinks.pair_text import FAMILIES
from podwire_agent.telemetry import AgentState, ClusterState, StepTimes
from podwire_api import load_file

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "agent" / "podwire_agent"
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
SOURCES = [*AGENT.rglob("*.py"), *(ROOT / "crds").rglob("*.py")]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED_IN = re.compile(r"`([\w./]+\.(?:py|h|c))`: ((?:`[\w.]+`(?:, )?)+)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SMALLEST_FRAGMENT = 7

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def prose(document: Path) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub("", document.read_text())


def code(document: Path) -> str:
    """The fenced blocks and the spans, a line each."""
    text = document.read_text()
    blocks = [block for language, block in FENCE.findall(text) if language != "mermaid"]
    return "\n".join([*blocks, *SPAN.findall(prose(document))])


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
    titles = (re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()) for title in HEADING.findall(prose(document)))
    return {title.strip().replace(" ", "-") for title in titles}


def table(document: Path, heading: str) -> list[list[str]]:
    """The rows of every table under a heading's words, cell by cell."""
    lines = document.read_text().splitlines()
    found, inside = [], False
    for line in lines:
        if not line.startswith("|"):
            inside = False
        elif line.startswith(f"| {heading} |"):
            inside = True
        elif inside and not line.startswith("|---"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def located(path: str) -> list[Path]:
    """Where a path that a document names may be: from the root, in the agent's package, or a bare name anywhere."""
    if "*" in path:
        return list(ROOT.glob(path))
    there = [base / path for base in (ROOT, AGENT) if (base / path).exists()]
    if there or "/" in path:
        return there
    return [each for part in (AGENT, ROOT / "bpf", ROOT / "crds") for each in part.rglob(path)]


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(prose(document)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (document.parent / name).resolve() if name else document
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_index_leads_to_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in LINK.findall(prose(index))}
    assert set(DOCS.rglob("*.md")) - {index} <= linked


@every_document
def test_paths_are_there(document: Path) -> None:
    folders = {path.name for path in (*ROOT.iterdir(), *AGENT.iterdir()) if path.is_dir() and path.name[0] != "."}
    for span in SPAN.findall(prose(document)):
        is_path = re.fullmatch(r"[\w.*/-]+", span) and span.partition("/")[0] in folders and "/" in span
        is_file = re.fullmatch(r"[\w/-]+\.(?:py|h|c|md|toml|svg)", span)
        generated = "*" in span or span.endswith(".o") or "objects" in span
        if (is_path or is_file) and not generated:
            assert located(span), span


@every_document
def test_names_are_in_the_files_that_they_are_said_to_be_in(document: Path) -> None:
    for path, names in NAMED_IN.findall(prose(document)):
        (there,) = located(path)
        for name in SPAN.findall(names):
            for part in name.split("."):
                assert re.search(rf"\b{part}\b", there.read_text()), f"{path}: {name}"


@every_document
def test_make_has_the_targets(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|[#$] |= )(?:\w+=\S+ )*make ([a-z-]+)", code(document), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@every_document
def test_resources_are_samples_and_parts_of_them_are_valid(document: Path, tmp_path: Path) -> None:
    samples = {path.read_text() for path in SAMPLES}
    others = {path.read_text() for path in (ROOT / "manifests").rglob("*.yaml")}
    for language, block in FENCE.findall(document.read_text()):
        if language != "yaml" or block in others:
            continue
        if "kind: NetworkMonitor" in block:
            assert block in samples, block
            continue
        part = tmp_path / "part.yaml"
        indented = "".join(f"  {line}\n" for line in block.splitlines())
        part.write_text(
            f"apiVersion: podwire.dev/v1alpha1\nkind: NetworkMonitor\nmetadata: {{name: part}}\nspec:\n{indented}"
        )
        load_file(part)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_a_sample_is_valid(sample: Path) -> None:
    assert load_file(sample)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Of the commands, by name."""
    (commands,) = (each for each in cli._parser()._actions if isinstance(each, argparse._SubParsersAction))
    return dict(commands.choices)


def options(parser: argparse.ArgumentParser) -> set[str]:
    """The long ones."""
    return {name for action in parser._actions for name in action.option_strings if name.startswith("--")}


@pytest.mark.parametrize("command", parsers())
def test_the_page_of_the_agent_has_every_option_of(command: str) -> None:
    page = (DOCS / "reference" / "agent.md").read_text()
    section = page.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    assert section
    assert set(OPTION.findall(section)) | {"--help"} == options(parsers()[command]) | {"--help"}


@every_document
def test_options_of_the_agent_are_its_options(document: Path) -> None:
    for line in code(document).splitlines():
        arguments = re.split(r"[|>&;]", line.partition("podwire-agent ")[2])[0].split()
        if arguments and arguments[0] in parsers():
            known = options(parsers()[arguments[0]])
            assert {each for each in arguments if each.startswith("--")} <= known, line


def test_the_page_of_metrics_has_every_metric() -> None:
    state = AgentState("0.1.0", "6.1.0", "libbpf", 0.0, (), cluster=ClusterState())
    text = b"".join(Exposition(lambda: state, StepTimes()).page(Format.TEXT).chunks)
    exposed = set(re.findall(r"^# TYPE (\w+)", text.decode(), re.MULTILINE))
    exposed |= {f"{family.name}_total" for family in FAMILIES if family.field in MEASURED}
    spans = SPAN.findall(prose(DOCS / "reference" / "metrics.md"))
    named = {span for span in spans if re.fullmatch(r"podwire_\w+", span)}
    process = {name for name in exposed if name.startswith("podwire_agent_process_")}
    assert named - process == exposed - process
    assert named & process


def test_other_pages_name_metrics_that_there_are() -> None:
    known = set(SPAN.findall((DOCS / "reference" / "metrics.md").read_text()))
    for document in DOCUMENTS:
        for span in SPAN.findall(prose(document)):
            if name := re.match(r"podwire_(?:agent|ledger)_\w+_(?:total|seconds|entries|capacity|interfaces)\b", span):
                assert name[0] in known, f"{document.name}: {span}"


def test_the_page_of_the_ledger_has_every_reason() -> None:
    rows = table(DOCS / "concepts" / "ledger.md", "reason")
    assert [row[0].strip("`") for row in rows] == list(REASONS.values())


def test_limits_are_constants_of_the_files_named() -> None:
    rows = table(ROOT / "ARCHITECTURE.md", "what | bound")
    assert len(rows) > 20
    for what, _, constant, where in rows:
        if constant:
            (there,) = located(where.strip("`"))
            assert re.search(rf"\b{constant.strip('`')}\b.*=", there.read_text()), what


@cache
def said() -> str:
    """All that the agent may say: its texts without what is filled in."""
    return "\n".join(text for source in SOURCES for text in texts(ast.parse(source.read_text())))


def texts(tree: ast.AST) -> Iterator[str]:
    """Of every string in the source but the docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        pytest.param("guides/troubleshooting.md", "message", id="troubleshooting"),
        pytest.param("concepts/ledger.md", "the verdict's words", id="what is not verifiable"),
        pytest.param("reference/networkmonitor.md", "message", id="problems of a resource"),
    ],
)
def test_messages_are_what_the_agent_says(page: str, heading: str) -> None:
    messages = [span for row in table(DOCS / page, heading) for span in SPAN.findall(row[0])]
    assert len(messages) >= 8
    for message in messages:
        fragments = [part.strip(" .:;") for part in re.split("…|CAP_|/slots", message)]
        assert any(len(fragment) >= SMALLEST_FRAGMENT for fragment in fragments), message
        for fragment in fragments:
            assert fragment in said(), message
