"""Writes NAME.expected.json for every NAME.jinja here: what Python's jinja2 renders, set up as Hugging Face's
transformers does. `null` is an error. Needs `pip install jinja2` (3.1); not needed to run the tests.

A template that wants the content as a list of parts (parts_only) gets it so."""

import datetime
import json
import pathlib

import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 3, 9, 14, 5, 6)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    @staticmethod
    def _body(caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = NOW.strftime

conversations = json.loads((HERE / "conversations.json").read_text(encoding="utf-8"))
for path in sorted(HERE.glob("*.jinja")):
    template = environment.from_string(path.read_bytes().decode("utf-8"))
    expected = {}
    for name, conversation in conversations.items():
        messages = conversation["messages"]
        if path.stem == "parts_only":
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        variables = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
        variables |= conversation.get("extra", {})
        try:
            expected[name] = template.render(
                messages=messages, add_generation_prompt=conversation["add_generation_prompt"], **variables
            )
        except jinja2.exceptions.TemplateError as error:
            print(f"{path.stem}/{name}: {error!r}")
            expected[name] = None
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (path.parent / f"{path.stem}.expected.json").write_text(text + "\n", encoding="utf-8")
