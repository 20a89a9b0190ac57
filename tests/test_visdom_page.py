import io
import subprocess
import tarfile
import urllib.request

import pytest

from lfkit import visdom_page
from lfkit.dashboard import start_server
from lfkit.visdom_page import PACKAGES, make_page, missing_files, page_or_none
from test_dashboard import free_port


@pytest.fixture
def npm(monkeypatch):
    """An npm whose packages hold their files' names, and the calls of it."""
    calls = []
    def run(command, cwd, **options):
        calls.append(command)
        for package in command[4:]:
            with tarfile.open(f"{cwd}/{package.replace('@', '-')}.tgz", "w:gz") as tar:
                for name in [*PACKAGES[package], "../../escaped.js"]:
                    entry = tarfile.TarInfo(f"package/{name}")
                    entry.size = len(name)
                    tar.addfile(entry, io.BytesIO(name.encode()))
    monkeypatch.setattr(visdom_page.shutil, "which", lambda name: "/usr/bin/npm")
    monkeypatch.setattr(visdom_page.subprocess, "run", run)
    return calls


def test_a_page_is_put_together_once(npm, tmp_path):
    page = make_page(tmp_path / "page")
    assert missing_files(page) == [] and (page / "js" / "react-react.min.js").read_text() == "umd/react.production.min.js" and (page / "index.html").exists()
    assert len(npm) == 1 and npm[0][:4] == ["npm", "pack", "--silent", "--ignore-scripts"] and make_page(page) == page and len(npm) == 1
    assert not list(tmp_path.rglob("escaped.js"))
    (page / "js" / "sjcl.js").unlink()
    assert missing_files(page) == ["js/sjcl.js"] and missing_files(make_page(page)) == []


def test_the_server_serves_that_page_and_no_other(npm, tmp_path):
    page, port = make_page(tmp_path / "page"), free_port()
    server = start_server(port, tmp_path / "env", page)
    try:
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/static/js/sjcl.js", timeout=10).read() == b"sjcl.js"
        assert b"plotly-plotly.min.js" in urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read()
    finally:
        server.terminate()
        server.wait(10)


def test_without_npm_or_a_network_the_page_is_blank_with_a_reason(monkeypatch, tmp_path, caplog):
    visdom_page.logger.propagate = True
    monkeypatch.setattr(visdom_page.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="no npm to get the scripts of visdom's page with; install Node.js, or copy a complete page"):
        make_page(tmp_path / "page")
    monkeypatch.setattr(visdom_page.shutil, "which", lambda name: "/usr/bin/npm")
    def fail(command, **options):
        raise subprocess.CalledProcessError(1, command, stderr=b"npm error code ENOTFOUND\n")
    monkeypatch.setattr(visdom_page.subprocess, "run", fail)
    with pytest.raises(ConnectionError, match=r"npm can't get the scripts of visdom's page \(npm error code ENOTFOUND\)"):
        make_page(tmp_path / "page")
    assert page_or_none(tmp_path / "page") is None and "the dashboard's page stays blank: npm can't" in caplog.text
