#!/usr/bin/env python3
"""Writes the licences of everything in a release beside chaski's own code into a folder: third-party.txt (a list, then the
texts) and rust-standard-library.html (the notices of Rust's standard library). A licence without a text is an error."""

import re
import shutil
import sys
from pathlib import Path

sys.dont_write_bytecode = True
import third_party

HEAD = """Chaski's binary contains code of others. Below: the components and their licences, then each text of these licences, with
the components that it comes from. The notices of Rust's standard library are in rust-standard-library.html.
Chaski's own code: MIT OR Apache-2.0 (LICENSE-MIT, LICENSE-APACHE).

"""
LINE = "=" * 100


def document(components):
    """The list of components and the texts, each text once."""
    components = [component for component in components if component.scope == "required" and not component.is_ours]
    components.sort(key=lambda component: (component.name, component.version))
    width = max(len(component.name) for component in components)
    rows = [f"{component.name:{width}}  {component.version or '(in llama.cpp)':22}  {component.licence}" for component in components]
    # Texts that differ in white space only are one.
    texts = {}
    for component in components:
        for text in component.texts:
            _, names = texts.setdefault(re.sub(r"\s+", " ", text).strip(), (text, []))
            names.append(f"{component.name} {component.version}".strip())
    parts = [HEAD, "\n".join(rows), "\n"]
    for text, names in texts.values():
        parts.append(f"\n{LINE}\n{', '.join(dict.fromkeys(names))}\n{LINE}\n\n{text.strip()}\n")
    return "".join(parts), len(components), len(texts)


def main():
    arguments = third_party.parser(__doc__)
    arguments.add_argument("folder", type=Path)
    arguments = arguments.parse_args()
    with third_party.failures_end_the_program():
        text, n_components, n_texts = document(third_party.components(arguments))
        arguments.folder.mkdir(parents=True, exist_ok=True)
        (arguments.folder / "third-party.txt").write_text(text, encoding="utf-8")
        shutil.copyfile(third_party.rust_documents() / "COPYRIGHT-library.html", arguments.folder / "rust-standard-library.html")
        print(f"{arguments.folder}/third-party.txt: {n_components} components, {n_texts} texts")


if __name__ == "__main__":
    main()
