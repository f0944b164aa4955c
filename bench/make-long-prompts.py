#!/usr/bin/env python3
"""Writes bench/long-prompts.jsonl: files of this repository, as they were at one commit, with a task whose answer copies.

usage: bench/make-long-prompts.py >bench/long-prompts.jsonl
"""

import json
import subprocess

COMMIT = "c3f8418"

EDIT = "Answer with the whole changed function `{function}`, and nothing else. Change nothing else in it."
QUOTE = "Answer by copying the passages that say so, word for word, and nothing else."

PROMPTS = [
    ("edit-4k-1", ["src/llama/session.rs"],
     "In `sync`, rename the variable `n_common` to `n_shared`. " + EDIT.format(function="sync")),
    ("edit-4k-2", ["src/chat/template.rs"],
     "In `render`, rename the parameter `guard` to `special_guard`. " + EDIT.format(function="render")),
    ("edit-8k-1", ["src/llama/session.rs", "src/cost.rs"],
     "In `CostCurve::measure`, rename the parameter `filler` to `padding` and the variable `missing` to `unknown`. "
     + EDIT.format(function="measure")),
    ("edit-8k-2", ["scripts/get_model.py", "scripts/build.sh"],
     "In get_model.py's `fetch_packages`, rename the variable `whole` to `joined` and the variable `reused` to "
     "`is_resumed`. " + EDIT.format(function="fetch_packages")),
    ("qa-4k-1", ["README.md"],
     "Question: What is kept on disk, and when is a cost curve measured again? " + QUOTE),
    ("qa-4k-2", ["ARCHITECTURE.md"],
     "Question: Which threads are there, and what does the interrupt do? " + QUOTE),
    ("qa-8k-1", ["README.md", "ARCHITECTURE.md"],
     "Question: What is the latch, and why is the curve measured? " + QUOTE),
    ("qa-8k-2", ["ARCHITECTURE.md", "README.md"],
     "Question: How is a tree held in the KV cache: what are the rules listed below the drawing? " + QUOTE),
]


def main():
    for prompt_id, files, task in PROMPTS:
        parts = []
        for path in files:
            text = subprocess.run(["git", "show", f"{COMMIT}:{path}"], check=True, capture_output=True, text=True).stdout
            parts.append(f"Here is {path}:\n\n````\n{text}````\n\n")
        prompt = {"id": prompt_id, "kind": prompt_id.rsplit("-", 1)[0], "prompt": "".join(parts) + task}
        print(json.dumps(prompt, ensure_ascii=False))


if __name__ == "__main__":
    main()
