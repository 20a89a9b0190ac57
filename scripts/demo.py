"""Runs the notebooks in order into runs/demo, whose earlier contents it deletes, or with --store in place; stops at the first cell that fails."""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]


def strip(notebook) -> None:
    """Leaves out what differs from run to run and says nothing: log lines, progress bars, and the interpreter's version."""
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr" and "widget" not in str(out.get("data", {}).keys())]
    notebook.metadata.pop("widgets", None)


def run_notebook(path: Path, out: Path) -> None:
    """Executes one notebook from its own folder, and writes it with its outputs and without times."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", extra_arguments=["--log-level=ERROR"], resources={"metadata": {"path": str(path.parent)}}, record_timing=False)
    try:
        client.execute()
    finally:  # a failed notebook is worth reading too
        strip(notebook)
        nbformat.write(notebook, out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", action="store_true", help="keep the outputs in notebooks/ instead")
    parser.add_argument("--profile", default=os.environ.get("LFKIT_PROFILE", "small"), choices=("ci", "small", "full"))
    args = parser.parse_args()
    run_dir = ROOT / "runs" / "demo"
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    os.environ.update(LFKIT_RUN_DIR=os.path.relpath(run_dir, ROOT / "notebooks"), LFKIT_PROFILE=args.profile)
    os.environ.pop("MPLBACKEND", None)
    # the kernel of this interpreter, not one that another environment has registered under the same name
    os.environ["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")
    for path in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        start = time.monotonic()
        print(f"{path.name} ...", end=" ", flush=True)
        try:
            run_notebook(path, path if args.store else run_dir / path.name)
        except CellExecutionError as error:
            print(f"failed\n{error}", file=sys.stderr)
            return 1
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    if not args.store:
        (run_dir / ".done").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
