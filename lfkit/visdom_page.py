"""visdom's page, complete, in a folder of its own: it comes without the scripts that it shows, and gets them from several networks at its first start.

Here they come from npm's packages, once, at the versions that visdom names; after that the page needs no network. visdom's own folder stays as it is.
"""

import logging
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from visdom.utils.shared_utils import get_visdom_path

logger = logging.getLogger("lfkit")
MATHJAX = ("MathJax.js", "config/Safe.js", "config/TeX-AMS-MML_HTMLorMML.js", "extensions/Safe.js", "jax/output/SVG/config.js", "jax/output/SVG/jax.js",
           "jax/output/SVG/fonts/TeX/fontdata.js", "jax/output/SVG/fonts/TeX/Size1/Regular/Main.js")
GLYPHS = "fonts/glyphicons-halflings-regular"
PACKAGES = {  # name@version: {file in the package: file in the page}
    "jquery@3.1.1": {"dist/jquery.min.js": "js/jquery.min.js"},
    "bootstrap@3.3.7": {"dist/js/bootstrap.min.js": "js/bootstrap.min.js", "dist/css/bootstrap.min.css": "css/bootstrap.min.css",
                        **{f"dist/{GLYPHS}.{kind}": f"{GLYPHS}.{kind}" for kind in ("eot", "svg", "ttf", "woff", "woff2")}},
    "react@16.2.0": {"umd/react.production.min.js": "js/react-react.min.js"},
    "react-dom@16.2.0": {"umd/react-dom.production.min.js": "js/react-dom.min.js"},
    "react-modal@3.1.10": {"dist/react-modal.min.js": "js/react-modal.min.js"},
    "react-resizable@1.4.6": {"css/styles.css": "css/react-resizable-styles.css"},
    "react-grid-layout@0.16.3": {"css/styles.css": "css/react-grid-layout-styles.css"},
    "plotly.js-dist-min@2.11.1": {"plotly.min.js": "js/plotly-plotly.min.js"},
    "sjcl@1.0.7": {"sjcl.js": "js/sjcl.js"},
    "layout-bin-packer@1.4.0": {"dist/layout-bin-packer.js": "js/layout_bin_packer.js", "dist/layout-bin-packer.js.map": "js/layout-bin-packer.js.map"},
    "d3@3.5.17": {"d3.min.js": "js/d3.v3.min.js"},
    "d3-selection-multi@1.0.1": {"build/d3-selection-multi.js": "js/d3-selection-multi.v1.js"},
    "save-svg-as-png@1.4.17": {"lib/saveSvgAsPng.js": "js/saveSvgAsPng.js"},
    "classnames@2.2.5": {"index.js": "fonts/classnames"},
    "mathjax@2.7.5": {name: f"js/mathjax/2.7.5/{name}" for name in MATHJAX},
}
NPM_SECONDS = 300


def missing_files(page: str | Path) -> list[str]:
    """What the page lacks, of visdom's own files and those of the packages; empty where it is complete."""
    own = [str(file.relative_to(get_visdom_path("static"))) for file in Path(get_visdom_path("static")).rglob("*") if file.is_file()]
    return [name for name in [*own, *(name for files in PACKAGES.values() for name in files.values())] if not (Path(page) / name).exists()]


def _unpack(archive: Path, files: dict[str, str], page: Path) -> None:
    """The wanted files of one package, whose own folder has any name; nothing else of it is written."""
    with tarfile.open(archive) as tar:
        members = {name.partition("/")[2]: name for name in tar.getnames()}
        for source, target in files.items():
            (page / target).parent.mkdir(parents=True, exist_ok=True)
            (page / target).write_bytes(tar.extractfile(members[source]).read())


def make_page(page: str | Path) -> Path:
    """Puts visdom's page together in a folder, unless it is there already.

    Args:
        page: the folder; made if missing.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: when the packages are needed and there is no npm.
        ConnectionError: when npm can't get them.
    """
    page = Path(page)
    if page.is_dir() and not missing_files(page):
        return page
    if not shutil.which("npm"):
        raise FileNotFoundError("no npm to get the scripts of visdom's page with; install Node.js, or copy a complete page from another machine to "
                                f"{page}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(["npm", "pack", "--silent", "--ignore-scripts", *PACKAGES], cwd=folder, check=True, capture_output=True, timeout=NPM_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = (error.stderr or b"").decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise ConnectionError(f"npm can't get the scripts of visdom's page ({said[-1]}); try again where there is a network, or copy a complete "
                                  f"page to {page}") from error
        shutil.copytree(get_visdom_path("static"), page, dirs_exist_ok=True)
        for package, files in PACKAGES.items():
            _unpack(Path(folder) / f"{package.replace('@', '-')}.tgz", files, page)
    return page


def page_or_none(page: str | Path) -> Path | None:
    """As `make_page`; None, with one warning, where that can't be: the server then runs with a blank page."""
    try:
        return make_page(page)
    except (FileNotFoundError, ConnectionError) as error:
        logger.warning("the dashboard's page stays blank: %s", error)
        return None
