"""What a release contains beside chaski's own code: the components, their licences, and the texts of these licences.

The components are the crates of `cargo metadata`, the code inside of llama-cpp-sys-2, Rust's standard library, and GCC's libraries
where they are linked statically. A component without the text of its licence is an error, and so is code in llama.cpp that names an
owner whom this file does not know. `licences.py` and `sbom.py` write the results. Needs only Python 3.8 or later, and cargo.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Failure(Exception):
    """Ends the program: a message and a hint."""

    def __init__(self, message, hint=None):
        super().__init__(message)
        self.hint = hint


@dataclass
class Component:
    """A crate, or code of others inside of one."""

    name: str
    version: str  # empty for a copy that does not say which
    licence: str  # an SPDX expression
    ref: str  # a package URL, unique
    scope: str = "required"  # "excluded": used while building, not part of the binary
    is_ours: bool = False
    sha256: str = ""  # of the crate's archive, or of a list of hashes: see `hash_means`
    hash_means: str = ""
    texts: list = field(default_factory=list)
    inside: str = ""  # the `ref` of the crate that contains it
    needs: list = field(default_factory=list)  # `ref`s

    def has_text(self):
        """Whether the texts are those of the licence."""
        return is_satisfied(self.licence, set().union(*map(licences_of, self.texts)))


def run(*command):
    """The stdout of a command."""
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise Failure(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def url(kind, name, version):
    """The package URL of a component."""
    return urllib.parse.quote(f"pkg:{kind}/{name}" + (version and f"@{version}"), safe=":/@")


def read(path):
    """A text file. Licences are sometimes Latin-1."""
    data = Path(path).read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


# --- licences ---------------------------------------------------------------------------------------------------------

# A phrase of each licence, by which a text is recognized; white space does not count.
PHRASES = {
    "0BSD": "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted.",
    "Apache-2.0": "Apache License Version 2.0, January 2004",
    "BSD-3-Clause": "to endorse or promote products derived from this software without specific prior written permission",
    "BSL-1.0": "Boost Software License - Version 1.0",
    "GCC-exception-3.1": "GCC RUNTIME LIBRARY EXCEPTION",
    "GPL-3.0-or-later": "GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007",
    "ISC": "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided",
    "LLVM-exception": "LLVM Exceptions to the Apache 2.0 License",
    "MIT": "Permission is hereby granted, free of charge, to any person obtaining a copy",
    "Unicode-3.0": "UNICODE LICENSE V3",
    "Unlicense": "This is free and unencumbered software released into the public domain",
    "Zlib": "This software is provided 'as-is', without any express or implied warranty",
}


def licences_of(text):
    """The SPDX names of the licences in a text."""
    words = re.sub(r"[\s/*#-]+", " ", text).lower()
    return {name for name, phrase in PHRASES.items() if re.sub(r"[\s/*#-]+", " ", phrase).lower() in words}


def is_satisfied(expression, names):
    """Whether licences with these SPDX names satisfy an expression such as `(MIT OR Apache-2.0) AND Unicode-3.0`."""
    tokens = re.findall(r"[()]|[\w.+-]+", expression.replace("/", " OR "))

    def alternatives():
        result = conjunction()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            result = conjunction() or result
        return result

    def conjunction():
        result = licence()
        while tokens and tokens[0] in ("AND", "WITH"):
            tokens.pop(0)
            result = licence() and result
        return result

    def licence():
        token = tokens.pop(0) if tokens else ""
        if token == "(":
            result = alternatives()
            if not tokens or tokens.pop(0) != ")":
                raise Failure(f"licence expression '{expression}': no closing bracket")
            return result
        return token in names

    result = alternatives()
    if tokens:
        raise Failure(f"licence expression '{expression}': '{tokens[0]}' is unexpected")
    return result


def mit(*copyrights):
    """The text of the MIT licence with other copyright lines: chaski's own."""
    lines = read(ROOT / "LICENSE-MIT").splitlines()
    kept = [line for line in lines if not line.startswith("Copyright")]
    return "\n".join([kept[0], "", *copyrights, *kept[2:]]) + "\n"


def apache():
    """The text of the Apache licence: it names nobody."""
    return read(ROOT / "LICENSE-APACHE")


# --- crates -----------------------------------------------------------------------------------------------------------

TEXT_FILES = re.compile(r"(licen[cs]e|copying|notice|unlicense|copyright)", re.IGNORECASE)



def plotters():
    """The licence in plotters' repository. In its packages the file has only the path of a link."""
    return mit("Copyright (c) 2019 Hao Hou <haohou302@gmail.com>")


# Packages whose archives have no text of a licence, though their repositories have. Where there is a choice, this is ours.
TEXTS_FOR = {
    "find_cuda_helper": apache,
    "llama-cpp-2": apache,
    "llama-cpp-sys-2": apache,
    "plotters": plotters,
    "plotters-backend": plotters,
    "plotters-svg": plotters,
}


def crates(target, features):
    """The crates of the program for a target: those in the binary, and those used while building."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    metadata = json.loads(run(*command, *(["--features", features] if features else [])))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    compiled = compiled_packages(target, features)
    root = metadata["resolve"]["root"]

    def reached(kinds):
        found, left = set(), [root]
        while left:
            package = left.pop()
            if package not in found and (packages[package]["name"], packages[package]["version"]) in compiled:
                found.add(package)
                left += [dep["pkg"] for dep in nodes[package]["deps"] if any(kind["kind"] in kinds for kind in dep["dep_kinds"])]
        return found

    linked, built_with = reached({None}), reached({None, "build"})
    sums = checksums()
    refs = {package: url("cargo", packages[package]["name"], packages[package]["version"]) for package in built_with}
    members = set(metadata["workspace_members"])
    result = []
    for package_id in sorted(built_with, key=refs.get):
        package = packages[package_id]
        component = Component(package["name"], package["version"], (package["license"] or "").replace("/", " OR "), refs[package_id])
        component.is_ours = package_id in members
        component.scope = "required" if package_id in linked else "excluded"
        component.sha256 = sums.get((package["name"], package["version"]), "")
        component.needs = sorted({refs[dep["pkg"]] for dep in nodes[package_id]["deps"] if dep["pkg"] in refs})
        component.texts = [] if component.is_ours else texts_in(Path(package["manifest_path"]).parent)
        if package["name"] in TEXTS_FOR and not component.has_text():
            component.texts = [TEXTS_FOR[package["name"]]()]
        result.append(component)
    folders = {package["name"]: Path(package["manifest_path"]).parent for package in packages.values()}
    return result, folders


def compiled_packages(target, features):
    """The names and versions of the packages that cargo compiles. `cargo metadata` also lists optional ones that nothing turns on."""
    command = ["cargo", "tree", "--locked", "--edges", "normal,build", "--target", target, "--prefix", "none", "--format", "{p}"]
    lines = run(*command, *(["--features", features] if features else [])).splitlines()
    return {(name, version.removeprefix("v")) for name, version, *_ in map(str.split, filter(None, lines))}


def texts_in(folder):
    """The texts of licences and notices in a package."""
    return [read(path) for path in sorted(folder.iterdir()) if path.is_file() and TEXT_FILES.match(path.name)]


def checksums():
    """The SHA-256 of each package's archive, from Cargo.lock."""
    found = {}
    for block in read(ROOT / "Cargo.lock").split("[[package]]"):
        values = dict(re.findall(r'^(name|version|checksum) = "(.*)"$', block, re.MULTILINE))
        if "checksum" in values:
            found[values["name"], values["version"]] = values["checksum"]
    return found


# --- llama.cpp --------------------------------------------------------------------------------------------------------

# Folders of vendor/: for parts of llama.cpp that chaski does not link.
VENDOR = {"cpp-httplib", "hash", "miniaudio", "nlohmann", "sheredom", "stb"}
# Files that name an owner or a licence. kleidiai is only compiled with an option that is off.
NOTICES = {
    "ggml/src/ggml-cpu/kleidiai/kernels.cpp",
    "ggml/src/ggml-cpu/kleidiai/kernels.h",
    "ggml/src/ggml-cpu/kleidiai/kleidiai.cpp",
    "ggml/src/ggml-cpu/kleidiai/kleidiai.h",
    "ggml/src/ggml-cpu/llamafile/sgemm.cpp",
    "ggml/src/ggml-cpu/ops.cpp",
    "ggml/src/ggml-metal/kernels/rope.metal",
    "src/llama-vocab.cpp",
}
NOTICE = re.compile(r"copyright|SPDX-|licensed under|MIT licen|\[MIT", re.IGNORECASE)
# Folders with code that chaski may link, and back ends that no release has.
LINKED = ["include", "src", "ggml/include", "ggml/src"]
OTHER_BACKENDS = re.compile(
    r"ggml/(src|include)/ggml-(cann|cuda|et|hexagon|hip|musa|opencl|openvino|rpc|sycl|virtgpu|vulkan|webgpu|zdnn|zendnn)[./]"
)


def llama_cpp(folder, ref):
    """llama.cpp, ggml, and the code of others inside of them."""
    check_notices(folder)

    def part(name, version, licence, texts):
        return Component(name, version, licence, url("generic", name, version), inside=ref, texts=texts)

    def quoted(file, phrase):
        if phrase not in read(folder / file):
            raise Failure(f"{folder / file} does not have '{phrase}' any more", "compare scripts/third_party.py with the new llama.cpp")

    version = defined(folder / "CMakeLists.txt", "LLAMA_VERSION")
    licence = read(folder / "LICENSE")
    quoted("ggml/src/ggml-cpu/ops.cpp", "MIT licensed. Copyright (c) 2023 Jeffrey Quesnelle and Bowen Peng.")
    quoted("ggml/src/ggml-cpu/vec.h", "github.com/openvinotoolkit/openvino")
    quoted("ggml/src/ggml-cpu/vec.h", "adapted from arm limited optimized routine")
    quoted("src/llama-vocab.cpp", "github.com/cmp-nct/ggllm.cpp [MIT License]")
    whole = part("llama.cpp", version, "MIT", [licence])
    whole.sha256, whole.hash_means = tree_hash(folder), "sha256sum of the output of `find * -type f | LC_ALL=C sort | xargs sha256sum` in llama.cpp/"
    return [
        whole,
        part("ggml", defined(folder / "ggml/CMakeLists.txt", "GGML_VERSION"), "MIT", [licence]),
        part("ggllm.cpp", "", "MIT", [mit("Copyright (c) 2023 Georgi Gerganov and the authors of ggllm.cpp")]),
        part("llamafile-sgemm", "", "MIT", [comment_at_head(folder / "ggml/src/ggml-cpu/llamafile/sgemm.cpp")]),
        part("yarn", "", "MIT", [mit("Copyright (c) 2023 Jeffrey Quesnelle and Bowen Peng")]),
        part("openvino", "", "Apache-2.0", [apache()]),
        part("arm-optimized-routines", "", "MIT", [mit("Copyright (c) 1999-2018, Arm Limited.")]),
    ]


def check_notices(folder):
    """Fails if llama.cpp has code of owners whom this file does not know."""
    hint = "add its licence to scripts/third_party.py"
    new = {path.name for path in (folder / "vendor").iterdir() if path.is_dir()} - VENDOR
    if new:
        raise Failure(f"llama.cpp has new code in vendor/: {', '.join(sorted(new))}", hint)
    for top in LINKED:
        for path in sorted((folder / top).rglob("*")):
            name = path.relative_to(folder).as_posix()
            if not path.is_file() or name in NOTICES or OTHER_BACKENDS.match(name):
                continue
            if path.suffix in (".c", ".cpp", ".h", ".hpp", ".m", ".metal") and NOTICE.search(read(path)):
                raise Failure(f"llama.cpp/{name} names an owner or a licence", hint)


def defined(path, name):
    """A version that a CMakeLists.txt sets in three parts."""
    text = read(path)
    parts = [re.search(rf"set\({name}_{part} (\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    if not all(parts):
        raise Failure(f"{path} has no {name}_MAJOR, _MINOR and _PATCH")
    return ".".join(found.group(1) for found in parts)


def comment_at_head(path, phrase=""):
    """The first comment of a C file that has a phrase, without the comment's signs."""
    pattern = r"/\*.*?\*/|(?://[^\n]*\n)+"
    for comment in re.findall(pattern, read(path), re.DOTALL):
        if phrase in comment:
            return re.sub(r"^(//|/\*| ?\*/| \*) ?", "", comment, flags=re.MULTILINE).strip("\n*/ ") + "\n"
    raise Failure(f"{path} has no comment with '{phrase}'")


def tree_hash(folder):
    """One hash for all files of a folder: of the lines that sha256sum prints for them, sorted by name."""
    names = sorted(path.relative_to(folder).as_posix().encode() for path in folder.rglob("*") if path.is_file())
    lines = hashlib.sha256()
    for name in names:
        digest = hashlib.sha256((folder / os.fsdecode(name)).read_bytes()).hexdigest()
        lines.update(digest.encode() + b"  " + name + b"\n")
    return lines.hexdigest()


# --- run-time libraries -----------------------------------------------------------------------------------------------


def rust_documents():
    """The folder of Rust's own copyright notices."""
    folder = Path(run("rustc", "--print", "sysroot").strip()) / "share/doc/rust"
    if not (folder / "COPYRIGHT-library.html").exists():
        raise Failure(f"{folder} has no COPYRIGHT-library.html", "use a toolchain that rustup installed")
    return folder


def rust_library():
    """Rust's standard library, and the page with its notices."""
    version = run("rustc", "--version").split()[1]
    component = Component("rust-std", version, "MIT OR Apache-2.0", url("generic", "rust-std", version))
    licences = rust_documents() / "licenses"
    component.texts = [read(licences / f"{name}.txt") for name in ("Apache-2.0", "MIT", "Unicode-3.0")]
    return component


def gcc_runtime(compiler):
    """GCC's libraries for C++, OpenMP and unwinding."""
    version = run(compiler, "-dumpfullversion", "-dumpversion").strip()
    notices = Path(f"/usr/share/doc/gcc-{version.split('.')[0]}-base/copyright")
    if not notices.exists():
        raise Failure(f"{notices} is missing: the notices of GCC's libraries", "make the release on Debian or Ubuntu, or link these libraries dynamically")
    licences = rust_documents() / "licenses"
    texts = [read(notices), read(licences / "GPL-3.0-or-later.txt"), read(licences / "GCC-exception-3.1.txt")]
    headers = run(compiler, "-x", "c++", "-M", "-include", "vector", os.devnull).split()
    containers = [header for header in headers if header.endswith("/bits/stl_vector.h")]
    if not containers:
        raise Failure(f"{compiler} does not say where bits/stl_vector.h is")
    result = []
    for name in ("libstdc++", "libgomp", "libgcc"):
        component = Component(name, version, "GPL-3.0-or-later WITH GCC-exception-3.1", url("generic", name, version))
        component.texts = texts + ([comment_at_head(containers[0], "Hewlett-Packard")] if name == "libstdc++" else [])
        result.append(component)
    return result


# --- everything -------------------------------------------------------------------------------------------------------


def components(arguments):
    """All components of a release, checked: each has the text of its licence."""
    result, folders = crates(arguments.target, arguments.features)
    sys_crate = next(component for component in result if component.name == "llama-cpp-sys-2")
    result += llama_cpp(folders["llama-cpp-sys-2"] / "llama.cpp", sys_crate.ref)
    result.append(rust_library())
    if arguments.static_runtime:
        result += gcc_runtime(arguments.static_runtime)
    for component in result:
        if component.scope == "required" and not component.is_ours and not component.has_text():
            raise Failure(
                f"{component.name} {component.version} has no text of its licence, '{component.licence}'",
                "add where its text comes from to scripts/third_party.py",
            )
    return result


def parser(description):
    """The arguments that all programs with this module take."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--target", default="x86_64-unknown-linux-gnu", help="Rust's name of the system that the release is for")
    result.add_argument("--features", default="", help="Cargo features of the release")
    result.add_argument("--static-runtime", metavar="COMPILER", help="GCC's libraries are linked statically; this is the C++ compiler")
    return result


@contextlib.contextmanager
def failures_end_the_program():
    """Prints a failure as the scripts do."""
    try:
        yield
    except (Failure, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        if getattr(failure, "hint", None):
            print(f"hint: {failure.hint}", file=sys.stderr)
        sys.exit(1)
