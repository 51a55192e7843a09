from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from podwire_agent.errors import ClusterError
from podwire_agent.kube.credentials import Credentials, from_kubeconfig, in_cluster

SERVICE = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def kubeconfig(path: Path, user: dict[str, Any], **cluster: Any) -> Path:
    document = {
        "clusters": [{"name": "c", "cluster": {"server": "https://[fd00::1]:6443", **cluster}}],
        "users": [{"name": "other", "user": {}}, {"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_text("")
    return tmp_path


def test_a_rotated_token_is_used_from_the_next_request_on(account: Path) -> None:
    who = in_cluster(SERVICE, account)
    assert who.authorization() == {"Authorization": "Bearer first"}
    (account / "token").write_text("second\n")
    assert who.authorization() == {"Authorization": "Bearer second"}
    assert (who.host, who.port) == ("10.96.0.1", 443)


def test_a_token_that_went_away_is_told(account: Path) -> None:
    who = in_cluster(SERVICE, account)
    (account / "token").unlink()
    with pytest.raises(ClusterError, match="is a service account's token mounted there"):
        who.authorization()


def test_outside_a_cluster_what_to_do_instead_is_told(tmp_path: Path, account: Path) -> None:
    for environ, directory in (({}, account), (SERVICE, tmp_path / "none")):
        with pytest.raises(ClusterError, match="--kubeconfig FILE") as refused:
            in_cluster(environ, directory)
        assert refused.value.status is None


def test_files_are_found_beside_the_kubeconfig(tmp_path: Path) -> None:
    user = {"client-certificate": "me.crt", "client-key": "/keys/me.key", "tokenFile": "me.token"}
    who = from_kubeconfig(kubeconfig(tmp_path / "config", user, **{"certificate-authority": "ca.crt"}))
    assert (who.host, who.port) == ("fd00::1", 6443)
    assert (who.authority, who.certificate, who.key) == (tmp_path / "ca.crt", tmp_path / "me.crt", Path("/keys/me.key"))
    assert who.token == tmp_path / "me.token"
    assert who.verify


def test_data_in_place_is_decoded(tmp_path: Path) -> None:
    data = base64.b64encode(b"PEM").decode()
    user = {"client-certificate-data": data, "client-key-data": data, "token": "secret"}
    who = from_kubeconfig(kubeconfig(tmp_path / "config", user, **{"certificate-authority-data": data}))
    assert (who.authority, who.certificate, who.key) == ("PEM", b"PEM", b"PEM")
    assert who.authorization() == {"Authorization": "Bearer secret"}


@pytest.mark.parametrize(
    ("user", "cluster", "words"),
    [
        pytest.param({"exec": {"command": "login"}}, {}, "come from a program", id="a program"),
        pytest.param({}, {"server": "http://10.0.0.1"}, "is not https", id="no TLS"),
        pytest.param({"client-key-data": "%"}, {}, "base64|padding", id="bad data"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_refused(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], words: str
) -> None:
    with pytest.raises(ClusterError, match=words):
        from_kubeconfig(kubeconfig(tmp_path / "config", user, **cluster))


@pytest.mark.parametrize("text", ["", "a: [", "[]", "current-context: x", "contexts: 5\ncurrent-context: x"])
def test_a_file_that_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(ClusterError, match="kubeconfig"):
        from_kubeconfig(tmp_path / "config")


def test_a_missing_kubeconfig_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="No such file"):
        from_kubeconfig(tmp_path / "none")


def test_without_verification_any_server_will_do() -> None:
    context = Credentials("127.0.0.1", 1, verify=False).context()
    assert context.verify_mode is ssl.CERT_NONE


def test_certificates_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing")
    with pytest.raises(ClusterError, match="check the files"):
        Credentials("127.0.0.1", 1, authority=tmp_path / "ca.crt").context()
