"""The addon as a Python package: ``pip install`` of a checkout, whatever it is called.

Each environment has of Odoo only what it imports, and pip of the same: Odoo itself is
beside it, as Debian's is.
"""

import ast
import json
import os
import shutil
import subprocess
import zipfile
from email.parser import Parser

import pytest
from basics import ROOT
from client import LISTENING, Sender, User, health, wait_until
from odoo_server import MODULE

#: Folders and files of a checkout that are not the addon's.
ABOUT_THE_ADDON = {
    ".ci",
    ".editorconfig",
    ".git",
    ".gitignore",
    ".pylintrc",
    ".ruff.toml",
    "CHANGELOG.rst",
    "CONTRIBUTING.rst",
    "docs",
    "pyproject.toml",
    "setup",
    "tests/e2e",
}

DISTRIBUTION = "odoo_addon_bus_alt_connection"


class Venv:
    """A virtual environment without the addon, on top of the stack's."""

    def __init__(self, environment, folder):
        self._env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
        } | {k: v for k, v in environment.odoo_env.items() if k != "PYTHONPATH"}
        self._run(environment.python, "-m", "venv", "--without-pip", folder)
        self.python = folder / "bin" / "python"
        [self.packages] = folder.glob("lib/python*/site-packages")
        # as a second folder of packages, with pip in it; but not the first, which is
        # where pip installs
        below = environment.python.parent.parent / self.packages.relative_to(folder)
        (self.packages / "odoo_imports.pth").write_text(f"{below}\n")

    def pip(self, *arguments):
        self._run(self.python, "-m", "pip", "--quiet", *arguments)

    def _run(self, *command):
        result = subprocess.run(
            command, env=self._env, capture_output=True, text=True, check=False
        )
        assert not result.returncode, result.stdout + result.stderr


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of this one under another name, with all in it committed."""
    folder = tmp_path_factory.mktemp("package") / "odoo behind pgbouncer"
    ignore = shutil.ignore_patterns(".git", ".stack", ".link", "*cache*", "dist")
    shutil.copytree(ROOT, folder, ignore=ignore, symlinks=True)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    for command in ("init", "add .", "commit --message=x"):
        subprocess.run(
            ["git", "-C", folder, *identity, *command.split()],
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture(scope="session")
def make_venv(stack, tmp_path_factory):
    return lambda: Venv(stack.environment, tmp_path_factory.mktemp("venv") / "venv")


@pytest.fixture(scope="session", params=["git", "editable"])
def venv(request, make_venv, checkout):
    """One with the addon, installed in one of the ways that are in the README."""
    venv = make_venv()
    if request.param == "git":
        venv.pip("install", f"git+{checkout.as_uri()}")
    else:
        venv.pip("install", "--editable", checkout)
    return venv


def manifest(checkout):
    return ast.literal_eval((checkout / "__manifest__.py").read_text())


def test_wheel(make_venv, checkout, tmp_path):
    """The addon and nothing else, where Odoo looks for addons; told by its manifest."""
    make_venv().pip("wheel", "--wheel-dir", tmp_path, checkout)
    [path] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        [metadata] = [name for name in names if name.endswith("/METADATA")]
        info = Parser().parsestr(wheel.read(metadata).decode())
    expected = {
        f"odoo/addons/{MODULE}/{name}"
        for file in checkout.rglob("*")
        if file.is_file()
        for name in [str(file.relative_to(checkout))]
        if not any(f"{name}/".startswith(f"{x}/") for x in ABOUT_THE_ADDON)
    }
    assert f"odoo/addons/{MODULE}/cli/bus_check.py" in expected
    assert {name for name in names if ".dist-info/" not in name} == expected
    version = manifest(checkout)["version"]
    assert path.name == f"{DISTRIBUTION}-{version}-py3-none-any.whl"
    assert info["Name"] == DISTRIBUTION.replace("_", "-")
    assert info["Version"] == version
    assert info["Requires-Dist"] is None
    assert info["Summary"] == manifest(checkout)["summary"]


def works(server, stack, database):
    """Whether it delivers, says that it does, and ``bus_check`` says so as well."""
    with server:
        websocket = User(server, database).websocket("e2e")
        assert websocket.receive(Sender(stack, database).send("e2e"))
        wait_until(lambda: health(server) == LISTENING, LISTENING)
        result = server.run("bus_check", "--json", stderr=subprocess.STDOUT)
        websocket.close()
    assert json.loads(result.stdout)["status"] == "OK", result.stdout
    return not result.returncode


def test_installed(stack, database, venv):
    """Without an entry in the addons path."""
    server = stack.odoo(database, addon="packaged", python=venv.python)
    assert works(server, stack, database)


def test_without_docstrings(stack, database, addon):
    """``python -OO``"""
    server = stack.odoo(database, addon=addon, env={"PYTHONOPTIMIZE": "2"})
    assert works(server, stack, database)


@pytest.mark.newest
def test_another_addon_of_that_name_comes_first(stack, database, make_venv):
    """Series before 19.0 take the command from the same addon, which has none."""
    venv = make_venv()
    other = venv.packages / "odoo" / "addons" / MODULE
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "__manifest__.py").write_text("{'name': 'Another', 'depends': ['bus']}")
    server = stack.odoo(database, addon="server-wide", python=venv.python)
    result = server.run("bus_check", stderr=subprocess.STDOUT)
    assert result.returncode == 3
    assert str(other) in result.stdout
    assert "pip uninstall odoo-addon-bus-alt-connection" in result.stdout
    assert "Traceback" not in result.stdout
