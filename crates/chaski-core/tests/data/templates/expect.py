"""Writes NAME.expected.json for every NAME.jinja here: what Hugging Face's transformers renders. `null` is an error.
Needs `pip install 'transformers<5' jinja2` (4.57, 3.1); not needed to run the tests.

A template that wants the content as a list of parts (parts_only) gets it so."""

import datetime
import json
import pathlib

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 3, 9, 14, 5, 6)


# What apply_chat_template compiles with, but for the clock.
def compile_template(source):
    template = _compile_jinja_template(source)
    template.environment.globals["strftime_now"] = NOW.strftime
    template.globals["strftime_now"] = NOW.strftime
    return template


conversations = json.loads((HERE / "conversations.json").read_text(encoding="utf-8"))
for path in sorted(HERE.glob("*.jinja")):
    template = compile_template(path.read_bytes().decode("utf-8"))
    expected = {}
    for name, conversation in conversations.items():
        messages = conversation["messages"]
        if path.stem == "parts_only":
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} if m["content"] is not None else m
                        for m in messages]
        variables = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
        variables |= conversation.get("extra", {})
        try:
            expected[name] = template.render(
                messages=messages, add_generation_prompt=conversation["add_generation_prompt"], **variables
            )
        except (jinja2.exceptions.TemplateError, TypeError) as error:
            print(f"{path.stem}/{name}: {error!r}")
            expected[name] = None
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (path.parent / f"{path.stem}.expected.json").write_text(text + "\n", encoding="utf-8")
