"""Who chooses the loader: the option, else the environment, else libbpf."""

from __future__ import annotations

import pytest

from podwire_agent import cli
from podwire_agent.settings import LoaderName


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        pytest.param("", [], LoaderName.LIBBPF, id="nobody chose"),
        pytest.param("bcc", [], LoaderName.BCC, id="the environment chose"),
        pytest.param("bcc", ["--loader", "libbpf"], LoaderName.LIBBPF, id="the option is stronger"),
    ],
)
def test_the_loader_is(
    environment: str, options: list[str], expected: LoaderName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PODWIRE_LOADER", environment)
    parsed = cli._parser().parse_args(["run", "--file", "monitor.yaml", *options])
    assert cli._settings(parsed).loader is expected


@pytest.mark.parametrize(("environment", "options"), [("cilium", []), ("", ["--loader", "cilium"])])
def test_a_loader_that_is_none_is_refused(
    environment: str,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PODWIRE_LOADER", environment)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "--file", "monitor.yaml", *options])
    assert ended.value.code == cli.BAD_INPUT
    assert "no loader 'cilium'; there are libbpf, bcc" in capsys.readouterr().err
