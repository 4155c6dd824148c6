"""Draws docs/demo.svg from what `make demo` prints in a terminal: python docs/draw_demo.py"""

import io
import os
import pty
import re
import subprocess
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
WIDTH = 88


def terminal_output() -> str:
    """Everything that `make demo` writes to a terminal, with colours."""
    master, slave = pty.openpty()
    around = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
    process = subprocess.Popen(
        ["make", "--silent", "demo"], cwd=HERE.parent, stdout=slave, stderr=slave, env=around
    )
    os.close(slave)
    parts = []
    try:
        while part := os.read(master, 65536):
            parts.append(part)
    except OSError:  # how a terminal ends on Linux
        pass
    process.wait()
    return b"".join(parts).decode()


def main() -> None:
    """Runs the demo, writes the picture."""
    text = terminal_output().replace("\r\n", "\n")
    text = re.sub(r"\x1b\[\?25[lh]|\x1b\[\d*[AK]|.*\r", "", text)
    lines = text.splitlines()  # without the bars, which a terminal wipes out
    lines = [x for x in lines if "Running the prompt" not in x and "Comparing" not in x]
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text("$ make demo", style="bold"))
    console.print(Text.from_ansi("\n".join(lines).strip()))
    (HERE / "demo.svg").write_text(console.export_svg(title="medusa-jax"))


if __name__ == "__main__":
    main()
