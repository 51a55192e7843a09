from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from podwire_operator import __version__, cli, logs
from podwire_operator.errors import ClusterError, SettingsError
from podwire_operator.settings import (
    LogFormat,
    default_agent_image,
    default_namespace,
    identity,
    parse_listen,
)


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """All logging goes there, until the test is over."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in logs.QUIET}
    try:
        yield io.StringIO()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, former in levels.items():
            logging.getLogger(name).setLevel(former)


def test_a_line_of_the_log_is_a_json_object(output: io.StringIO) -> None:
    logs.configure("info", LogFormat.JSON, output)
    log = logging.getLogger("podwire_operator.test")
    log.info("made\n%s", "it", extra=logs.fields(monitor="shop", again_s=1.5))
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("failed")
    log.debug("not wanted")
    first, second = map(json.loads, output.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "podwire_operator.test",
        "message": "made\nit",
        "monitor": "shop",
        "again_s": 1.5,
    }
    assert "ZeroDivisionError: division by zero" in second["traceback"]


def test_a_line_for_people_has_the_same(output: io.StringIO) -> None:
    logs.configure("warning", LogFormat.TEXT, output)
    logging.getLogger("podwire_operator.test").warning("failed", extra=logs.fields(monitor="shop"))
    assert output.getvalue().endswith(" WARNING failed monitor=shop\n")


def test_kopf_does_not_tell_of_each_event_and_each_try(output: io.StringIO) -> None:
    logs.configure("info", LogFormat.JSON, output)
    logging.getLogger("kopf.objects").info("Handler 'nodes' succeeded.")
    logging.getLogger("kopf._cogs.clients.watching").error("Request attempt #1 failed")
    assert output.getvalue() == ""
    logging.getLogger("kopf.objects").error("Handler 'nodes' failed.")
    assert json.loads(output.getvalue())["level"] == "error"


@pytest.mark.parametrize(
    ("text", "place"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("localhost", 1))],
)
def test_where_to_listen(text: str, place: tuple[str, int]) -> None:
    assert parse_listen(text) == place


@pytest.mark.parametrize("text", ["8080", ":8080", "::1:8080", "host:port", "host:70000"])
def test_where_nobody_can_listen(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="not ADDRESS:PORT"):
        parse_listen(text)
    assert cli.main(["run", "--listen", text, "--log-level", "error"]) == cli.BAD_INPUT
    assert capsys.readouterr().err.startswith(f"podwire-operator: --listen {text}: not ADDRESS:PORT")


def test_the_environment_says_who_and_where_it_is() -> None:
    given = {"POD_NAME": "me", "POD_NAMESPACE": "here", "PODWIRE_AGENT_IMAGE": "image:1"}
    assert (identity(given), default_namespace(given), default_agent_image(given)) == ("me", "here", "image:1")
    assert default_namespace({}) == "podwire-system"
    assert default_agent_image({}) == f"podwire-agent:{__version__}"
    assert identity({}) != identity({})


def test_without_credentials_it_says_what_to_do(
    capsys: pytest.CaptureFixture[str], output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    del output
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert cli.main(["run", "--listen", "off"]) == cli.BAD_INPUT
    assert "name a file with --kubeconfig" in capsys.readouterr().err
    assert cli.main(["run", "--listen", "off", "--kubeconfig", "/nowhere/config"]) == cli.BAD_INPUT
    assert "/nowhere/config" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"podwire-operator {__version__}\n"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(ClusterError("x"), "unanswered", id="no answer"),
        pytest.param(ClusterError("x", 429), "unanswered", id="too many requests"),
        pytest.param(ClusterError("x", 503), "unanswered", id="unavailable"),
        pytest.param(ClusterError("x", 404), "missing", id="not found"),
        pytest.param(ClusterError("x", 409), "conflict", id="conflict"),
        pytest.param(ClusterError("x", 403), "refused", id="forbidden"),
        pytest.param(ClusterError("x", 422), "refused", id="invalid"),
        pytest.param(
            ClusterError("x", 500, "failed to create typed patch object"), "refused", id="a field unknown to the schema"
        ),
        pytest.param(ClusterError("x", 500, "etcdserver: leader changed"), "", id="the server's own trouble"),
    ],
)
def test_errors_are_told_apart_by_what_can_be_done(error: ClusterError, kind: str) -> None:
    kinds = {name for name in ("unanswered", "missing", "conflict", "refused") if getattr(error, name)}
    assert (kind in kinds) if kind else not kinds
    assert not {"unanswered", "refused"} <= kinds
