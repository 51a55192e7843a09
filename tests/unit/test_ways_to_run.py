"""Either for files or for a node of a cluster, and what belongs to which."""

from __future__ import annotations

import pytest

from podwire_agent import cli


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        pytest.param([], cli.BAD_INPUT, "--file MONITOR, or on a node of a cluster --node NAME", id="neither"),
        pytest.param(["--file", "a", "--pool", "p"], cli.BAD_INPUT, "--pool is for a node of a cluster", id="both"),
        pytest.param(["--node", "n", "--keep"], cli.BAD_INPUT, "--keep is for --file", id="keeping in a cluster"),
        pytest.param(["--node", "n"], cli.FAILED, "this is no pod with a service account", id="outside a pod"),
        pytest.param(["--node", "n", "--kubeconfig", "/nowhere"], cli.FAILED, "kubeconfig /nowhere", id="no such file"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    options: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert cli.main(["run", *options]) == code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("podwire-agent: ")
    assert words in line
