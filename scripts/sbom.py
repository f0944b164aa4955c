#!/usr/bin/env python3
"""Writes the parts of a release as a CycloneDX document (JSON): the crates in the binary, those used while building (scope
`excluded`), llama.cpp and what it contains, and the run-time libraries. The same sources give the same bytes.

With --check FILE it validates a document against CycloneDX's schema instead; that needs the package that it names.
"""

import hashlib
import json
import os
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path

sys.dont_write_bytecode = True
import third_party

SPECIFICATION = "1.6"
VALIDATOR = "cyclonedx-python-lib[json-validation]==11.12.0"


def entry(component):
    """A component in CycloneDX's terms."""
    result = {"type": "library", "bom-ref": component.ref, "name": component.name}
    if component.version:
        result["version"] = component.version
    result["scope"] = component.scope
    if component.sha256 and not component.hash_means:
        result["hashes"] = [{"alg": "SHA-256", "content": component.sha256}]
    result["licenses"] = [{"expression": component.licence}]
    result["purl"] = component.ref
    if component.hash_means:
        result["properties"] = [
            {"name": "chaski:tree:sha256", "value": component.sha256},
            {"name": "chaski:tree:meaning", "value": component.hash_means},
        ]
    return result


def document(components, binary, seconds):
    """The whole document. `binary`: the program's file, or None."""
    main = next(component for component in components if component.name == "chaski")
    others = [component for component in components if component is not main]
    entries = {component.ref: entry(component) for component in others}
    for component in others:
        if component.inside:
            entries[component.inside].setdefault("components", []).append(entries[component.ref])
    runtime = [c.ref for c in others if not c.inside and not c.ref.startswith("pkg:cargo/")]
    subject = entry(main)
    subject["type"] = "application"
    del subject["scope"]
    if binary:
        subject["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(binary.read_bytes()).hexdigest()}]
    result = {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": subject,
        },
        "components": [entries[c.ref] for c in others if not c.inside],
        "dependencies": [
            {"ref": c.ref, "dependsOn": sorted(set(c.needs) | {part.ref for part in others if part.inside == c.ref})} for c in others
        ]
        + [{"ref": main.ref, "dependsOn": main.needs + runtime}],
    }
    # The number names this content: the same content has the same number.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(result, sort_keys=True))
    return {"bomFormat": result.pop("bomFormat"), "specVersion": result.pop("specVersion"), "serialNumber": f"urn:uuid:{serial}", **result}


def check(path):
    """Validates a document against the schema, and that every reference in it leads somewhere."""
    try:
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ImportError:
        raise third_party.Failure("the validator is not installed", f"python3 -m pip install '{VALIDATOR}'") from None
    text = third_party.read(path)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        raise third_party.Failure(f"{path}: {str(error).splitlines()[0]}")
    content = json.loads(text)
    refs = [content["metadata"]["component"]["bom-ref"]]
    for component in content["components"]:
        refs += [component["bom-ref"], *[part["bom-ref"] for part in component.get("components", [])]]
    if len(refs) != len(set(refs)):
        raise third_party.Failure(f"{path}: two components have the same bom-ref")
    unknown = {ref for line in content["dependencies"] for ref in [line["ref"], *line["dependsOn"]]} - set(refs)
    if unknown:
        raise third_party.Failure(f"{path}: no component has the bom-ref {sorted(unknown)[0]}")
    print(f"{path}: valid CycloneDX {SPECIFICATION}, {len(refs)} components")


def main():
    arguments = third_party.parser(__doc__)
    arguments.add_argument("--check", type=Path, metavar="FILE", help="only validate this document")
    arguments.add_argument("--binary", type=Path, help="the program, for its hash")
    arguments.add_argument("out", type=Path, nargs="?", help="the file to write")
    arguments = arguments.parse_args()
    with third_party.failures_end_the_program():
        if arguments.check:
            return check(arguments.check)
        seconds = os.environ.get("SOURCE_DATE_EPOCH") or third_party.run("git", "log", "-1", "--format=%ct")
        content = document(third_party.components(arguments), arguments.binary, int(seconds))
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        if not arguments.out:
            raise third_party.Failure("the file to write is missing", "scripts/sbom.py chaski.cdx.json")
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
