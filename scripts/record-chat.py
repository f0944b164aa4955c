#!/usr/bin/env python3
"""Plays a chat on a pseudo-terminal and draws its final screen: docs/img/chat.svg.

Nothing is faked: the script types the keys below, the model answers, and a terminal emulator (pyte, from PyPI) keeps the
screen.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install pyte==0.8.2
    /tmp/venv/bin/python scripts/record-chat.py target/release/chaski MODEL.gguf >docs/img/chat.svg
"""

import fcntl
import os
import pty
import select
import struct
import sys
import tempfile
import termios
import time
from xml.sax.saxutils import escape

import pyte

COLUMNS, LINES = 92, 30
TYPED = [
    "Give me three short tips for a first marathon.",
    "What do I eat the day before? One sentence.",
    "/save marathon",
]
ARGUMENTS = ["chat", "-s", "3", "-n", "120", "-c", "1024", "--color", "always"]
PATIENCE_S = 300
PAUSE_S = 1.5

CELL_WIDTH, LINE_HEIGHT, FONT_SIZE, MARGIN = 8.43, 19, 14, 16
BACKGROUND, FOREGROUND = "#1b1f27", "#d5dae3"
COLOURS = {"cyan": "#6fc3d6", "red": "#e0757d", "green": "#93c47d", "brown": "#d9b46c", "blue": "#7aa6da", "magenta": "#c397d8"}


class Screen(pyte.Screen):
    """A screen that shows dimmed text, which pyte does not support, in its own colour."""

    def select_graphic_rendition(self, *attributes, **kwargs):
        dim = 2 in attributes
        super().select_graphic_rendition(*(a for a in attributes if a != 2), **kwargs)
        if dim:
            self.cursor.attrs = self.cursor.attrs._replace(fg="7f8794")


def start(chaski, model):
    """Starts the chat on its own terminal, in a home without settings or history."""
    pid, terminal = pty.fork()
    if pid == 0:
        home = tempfile.mkdtemp()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LLAMA_", "CHASKI_"))}
        os.execve(chaski, [chaski, *ARGUMENTS, "-m", model], {**kept, "HOME": home, "TERM": "xterm-256color"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    return terminal


def until_prompt(terminal, screen, stream):
    """Feeds the screen until it shows a prompt and no more output arrives."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        if select.select([terminal], [], [], PAUSE_S)[0]:
            stream.feed(os.read(terminal, 4096))
        elif screen.display[screen.cursor.y].rstrip().endswith("] >"):
            return
        if time.monotonic() > deadline:
            sys.exit("record-chat: no prompt came; the screen:\n" + "\n".join(screen.display))


def runs(row):
    """Runs of cells with the same style: first column, text, and style."""
    found = []
    for column in range(COLUMNS):
        cell = row[column]
        style = (cell.fg, cell.bold, cell.italics)
        if found and found[-1][2] == style:
            found[-1][1] += cell.data
        else:
            found.append([column, cell.data, style])
    return [run for run in found if run[1].strip()]


def draw(screen):
    n_lines = max(y for y in range(LINES) if screen.display[y].strip()) + 1
    width, height = COLUMNS * CELL_WIDTH + 2 * MARGIN, n_lines * LINE_HEIGHT + 2 * MARGIN
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">')
    print(f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>')
    print(f'<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="{FONT_SIZE}" xml:space="preserve">')
    for y in range(n_lines):
        for column, text, (fg, bold, italics) in runs(screen.buffer[y]):
            text = text.rstrip()
            colour = COLOURS.get(fg, FOREGROUND if fg == "default" else "#" + fg)
            style = (' font-weight="bold"' if bold else "") + (' font-style="italic"' if italics else "")
            x, base = MARGIN + column * CELL_WIDTH, MARGIN + y * LINE_HEIGHT + FONT_SIZE
            length = f'textLength="{len(text) * CELL_WIDTH:.1f}"'
            print(f'<text x="{x:.1f}" y="{base}" fill="{colour}"{style} {length}>{escape(text)}</text>')
    print("</g>\n</svg>")


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: record-chat.py CHASKI MODEL.gguf >docs/img/chat.svg")
    chaski, model = map(os.path.abspath, sys.argv[1:])
    screen = Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    terminal = start(chaski, model)
    until_prompt(terminal, screen, stream)
    for line in TYPED:
        # The editor sees no difference to typing key by key.
        os.write(terminal, line.encode() + b"\r")
        until_prompt(terminal, screen, stream)
    draw(screen)
    os.write(terminal, b"\x04")
    # Unread output would keep the chat from ending.
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        pass
    os.wait()


main()
