"""What holds for every image."""

from __future__ import annotations

from pathlib import Path

from tests.images.container import Container, Image, Node, Pod
from tests.kernel.netns import Host
from tools.images import version

BUILDERS = {"clang", "clang-14", "gcc", "cc", "ld", "as", "llc", "llvm-strip", "pip", "pip3", "make"}


def test_the_version_is_that_of_the_package_and_of_the_label(every_image: Image, host: Host, tmp_path: Path) -> None:
    with Container(every_image, Node(host.namespace, tmp_path), "--version", pod=Pod()) as container:
        assert container.wait() == 0, container.stderr
        assert container.stdout.split() == [*every_image.config["Entrypoint"], version()]
    labels = every_image.config["Labels"]
    assert labels["org.opencontainers.image.version"] == version()
    assert labels["org.opencontainers.image.title"].startswith(every_image.config["Entrypoint"][0])


def test_no_compiler_and_no_installer_of_packages_is_on_the_path(every_image: Image) -> None:
    assert {*every_image.config["Entrypoint"], "python3"} <= every_image.commands()
    assert not every_image.commands() & BUILDERS
    assert not every_image.packages() & {"pip", "setuptools", "wheel"}


def test_all_python_is_compiled_beforehand_since_a_read_only_root_keeps_no_byte_code(every_image: Image) -> None:
    for place in ("opt/podwire/lib", "usr/lib/python3"):
        sources = [path for path in every_image.root.glob(f"{place}*/**/*.py") if "lib2to3/tests" not in str(path)]
        assert sources
        assert [path for path in sources if not list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))] == []
