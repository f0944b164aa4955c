//! llama.cpp's built-in chat templates as Jinja, under llama.cpp's names.
//!
//! Most of them print fixed text before and after each message, by its role. A test compares each with llama.cpp's own
//! output.

use std::fmt::Write as _;

/// A template of fixed texts: before and after messages of the system, the user and the assistant, and the opening of
/// an answer.
struct Plain {
    name: &'static str,
    start: &'static str,
    /// `{role}` stands for the role's name.
    roles: [(&'static str, &'static str); 3],
    opening: &'static str,
    /// Whether messages are trimmed.
    trims: bool,
}

const fn plain(
    name: &'static str,
    roles: [(&'static str, &'static str); 3],
    opening: &'static str,
    trims: bool,
) -> Plain {
    Plain { name, start: "", roles, opening, trims }
}

const fn alike(name: &'static str, before: &'static str, after: &'static str, opening: &'static str) -> Plain {
    plain(name, [(before, after); 3], opening, false)
}

const PLAIN: [Plain; 40] = [
    plain("rwkv-world", [("System: ", "\n\n"), ("User: ", "\n\n"), ("Assistant: ", "\n\n")], "Assistant:", true),
    Plain {
        start: "<s>",
        ..plain(
            "gigachat",
            [
                ("", "<|message_sep|>"),
                ("user<|role_sep|>", "<|message_sep|>available functions<|role_sep|>[]<|message_sep|>"),
                ("assistant<|role_sep|>", "<|message_sep|>"),
            ],
            "assistant<|role_sep|>",
            false,
        )
    },
    alike("chatml", "<|im_start|>{role}\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
    alike("phi3", "<|{role}|>\n", "<|end|>\n", "<|assistant|>\n"),
    alike("phi4", "<|im_start|>{role}<|im_sep|>", "<|im_end|>", "<|im_start|>assistant<|im_sep|>"),
    alike("falcon3", "<|{role}|>\n", "\n", "<|assistant|>\n"),
    alike("zephyr", "<|{role}|>\n", "<|endoftext|>\n", "<|assistant|>\n"),
    alike("glmedge", "<|{role}|>\n", "", "<|assistant|>"),
    alike("megrez", "<|role_start|>{role}<|role_end|>", "<|turn_end|>", "<|role_start|>assistant<|role_end|>"),
    alike("solar-open", "<|begin|>{role}<|content|>", "<|end|>", "<|begin|>assistant"),
    alike("granite", GRANITE.0, GRANITE.1, GRANITE.2),
    alike("granite-4.0", GRANITE.0, GRANITE.1, GRANITE.2),
    alike("granite-4.1", GRANITE.0, GRANITE.1, GRANITE.2),
    alike("deepseek-ocr", "", "", ""),
    Plain { start: "[gMASK]sop", ..alike("chatglm3", "<|{role}|>\n ", "", "<|assistant|>") },
    Plain { start: "[gMASK]<sop>", ..alike("chatglm4", "<|{role}|>\n", "", "<|assistant|>\n") },
    Plain {
        trims: true,
        ..alike(
            "llama3",
            "<|start_header_id|>{role}<|end_header_id|>\n\n",
            "<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        )
    },
    Plain {
        trims: true,
        ..alike(
            "llama4",
            "<|header_start|>{role}<|header_end|>\n\n",
            "<|eot|>",
            "<|header_start|>assistant<|header_end|>\n\n",
        )
    },
    plain("mistral-v7", [("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"), ("[INST] ", "[/INST]"), (" ", "</s>")], "", false),
    plain(
        "mistral-v7-tekken",
        [("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), ("[INST]", "[/INST]"), ("", "</s>")],
        "",
        false,
    ),
    plain(
        "openchat",
        [
            ("", "<|end_of_turn|>"),
            ("GPT4 Correct User: ", "<|end_of_turn|>"),
            ("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        ],
        "GPT4 Correct Assistant:",
        false,
    ),
    plain("vicuna", [("", "\n\n"), ("USER: ", "\n"), ("ASSISTANT: ", "</s>\n")], "ASSISTANT:", false),
    plain("vicuna-orca", [("SYSTEM: ", "\n"), ("USER: ", "\n"), ("ASSISTANT: ", "</s>\n")], "ASSISTANT:", false),
    plain(
        "deepseek",
        [("", ""), ("### Instruction:\n", "\n"), ("### Response:\n", "\n<|EOT|>\n")],
        "### Response:\n",
        false,
    ),
    plain(
        "deepseek2",
        [("", "\n\n"), ("User: ", "\n\n"), ("Assistant: ", "<｜end▁of▁sentence｜>")],
        "Assistant:",
        false,
    ),
    plain(
        "deepseek3",
        [("", "\n\n"), ("<｜User｜>", ""), ("<｜Assistant｜>", "<｜end▁of▁sentence｜>")],
        "<｜Assistant｜>",
        false,
    ),
    plain(
        "command-r",
        [
            ("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            ("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ],
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        true,
    ),
    plain("minicpm", [("", ""), ("<用户>", "<AI>"), ("", "")], "", true),
    plain("exaone3", EXAONE, "[|assistant|]", true),
    plain("exaone4", EXAONE, "[|assistant|]", true),
    Plain { trims: true, ..alike("exaone-moe", "<|{role}|>\n", "<|endofturn|>\n", "<|assistant|>\n") },
    plain("yandex", [("", ""), (" Пользователь: ", "\n\n"), (" Ассистент: ", "\n\n")], " Ассистент:[SEP]", false),
    plain("bailing", BAILING, "<role>ASSISTANT</role>", false),
    plain("bailing-think", BAILING, "<role>ASSISTANT</role><think>", false),
    Plain {
        start: "<|im_start|>",
        ..plain(
            "smolvlm",
            [("", "\n\n"), ("User: ", "<end_of_utterance>\n"), ("Assistant: ", "<end_of_utterance>\n")],
            "Assistant:",
            false,
        )
    },
    plain(
        "hunyuan-moe",
        [("<|startoftext|>", "<|extra_4|>"), ("<|startoftext|>", "<|extra_0|>"), ("", "<|eos|>")],
        "",
        false,
    ),
    plain(
        "gpt-oss",
        [
            ("<|start|>{role}<|message|>", "<|end|>"),
            ("<|start|>{role}<|message|>", "<|end|>"),
            ("<|start|>{role}<|message|>", "<|return|>"),
        ],
        "<|start|>assistant",
        false,
    ),
    plain(
        "hunyuan-dense",
        [
            ("", "<｜hy_place▁holder▁no▁3｜>"),
            ("<｜hy_User｜>", "<｜hy_Assistant｜>"),
            ("<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁2｜>"),
        ],
        "",
        false,
    ),
    Plain {
        start: "<｜hy_begin▁of▁sentence｜>",
        ..plain(
            "hunyuan-vl",
            [("", "<｜hy_place▁holder▁no▁3｜>"), ("", "<｜hy_User｜>"), ("", "<｜hy_Assistant｜>")],
            "",
            false,
        )
    },
    plain(
        "kimi-k2",
        [
            ("<|im_system|>system<|im_middle|>", "<|im_end|>"),
            ("<|im_user|>user<|im_middle|>", "<|im_end|>"),
            ("<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"),
        ],
        "<|im_assistant|>assistant<|im_middle|>",
        false,
    ),
];

const GRANITE: (&str, &str, &str) =
    ("<|start_of_role|>{role}<|end_of_role|>", "<|end_of_text|>\n", "<|start_of_role|>assistant<|end_of_role|>");
const EXAONE: [(&str, &str); 3] =
    [("[|system|]", "[|endofturn|]\n"), ("[|user|]", "\n"), ("[|assistant|]", "[|endofturn|]\n")];
const BAILING: [(&str, &str); 3] =
    [("<role>SYSTEM</role>", ""), ("<role>HUMAN</role>", ""), ("<role>ASSISTANT</role>", "")];

/// Templates of another kind: turns in `[INST]`, or a system prompt that is merged into the user's message.
const OTHERS: [(&str, &str); 14] = [
    ("bailing2", BAILING2),
    ("grok-2", GROK),
    ("pangu-embedded", PANGU),
    ("llama2", LLAMA2),
    ("llama2-sys", LLAMA2),
    ("llama2-sys-bos", LLAMA2),
    ("llama2-sys-strip", LLAMA2),
    ("mistral-v1", MISTRAL),
    ("mistral-v3", MISTRAL),
    ("mistral-v3-tekken", MISTRAL),
    ("gemma", SYSTEM_IN_USER),
    ("orion", SYSTEM_IN_USER),
    ("monarch", MONARCH),
    ("seed_oss", SEED),
];

const LLAMA2: &str = "{% set ns = namespace(inside=true) %}{{ '[INST] ' }}{% for message in messages %}\
    {% set content = message.content | trim if name == 'llama2-sys-strip' else message.content %}\
    {% if not ns.inside %}{% set ns.inside = true %}{{ '<s>[INST] ' if name == 'llama2-sys-bos' else '[INST] ' }}{% endif %}\
    {% if message.role == 'system' %}\
    {% if name == 'llama2' %}{{ content }}{{ '\\n' }}{% else %}{{ '<<SYS>>\\n' }}{{ content }}{{ '\\n<</SYS>>\\n\\n' }}{% endif %}\
    {% elif message.role == 'user' %}{{ content }}{{ ' [/INST]' }}\
    {% else %}{{ content }}{{ '</s>' }}{% set ns.inside = false %}{% endif %}{% endfor %}";

const MISTRAL: &str = "{% set ns = namespace(inside=false) %}\
    {% set lead = ' ' if name == 'mistral-v1' else '' %}{% set trail = '' if name == 'mistral-v3-tekken' else ' ' %}\
    {% for message in messages %}\
    {% if not ns.inside %}{{ lead }}{{ '[INST]' }}{{ trail }}{% set ns.inside = true %}{% endif %}\
    {% if message.role == 'system' %}{{ message.content }}{{ '\\n\\n' }}\
    {% elif message.role == 'user' %}{{ message.content }}{{ lead }}{{ '[/INST]' }}\
    {% else %}{{ trail }}{{ message.content | trim if name == 'mistral-v3' else message.content }}{{ '</s>' }}\
    {% set ns.inside = false %}{% endif %}{% endfor %}";

const SYSTEM_IN_USER: &str = "{% set ns = namespace(system='') %}{% set trims = name == 'gemma' %}\
    {% for message in messages %}{% set content = message.content | trim if trims else message.content %}\
    {% if message.role == 'system' %}{% set ns.system = content %}\
    {% elif message.role == 'user' %}{{ '<start_of_turn>user\\n' if trims else 'Human: ' }}\
    {% if ns.system %}{{ ns.system }}{{ '\\n\\n' }}{% set ns.system = '' %}{% endif %}\
    {{ content }}{{ '<end_of_turn>\\n' if trims else '\\n\\nAssistant: </s>' }}\
    {% else %}{{ '<start_of_turn>model\\n' if trims else '' }}{{ content }}{{ '<end_of_turn>\\n' if trims else '</s>' }}\
    {% endif %}{% endfor %}{% if add_generation_prompt and trims %}{{ '<start_of_turn>model\\n' }}{% endif %}";

const MONARCH: &str = "{% for message in messages %}{{ '' if loop.first else '<s>' }}{{ message.role }}{{ '\\n' }}\
    {{ message.content }}{{ '</s>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}";

const SEED: &str = "{% for message in messages %}{{ '<seed:bos>' }}{{ message.role }}{{ '\\n' }}\
    {{ message.content | trim if message.role == 'assistant' else message.content }}{{ '<seed:eos>' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<seed:bos>assistant\\n' }}{% endif %}";

const BAILING2: &str = "{% if messages[0].role != 'system' %}\
    {{ '<role>SYSTEM</role>detailed thinking off<|role_end|>' }}{% endif %}{% for message in messages %}{{ '<role>' }}\
    {{ 'HUMAN' if message.role == 'user' else message.role | upper }}{{ '</role>' }}{{ message.content }}{{ '<|role_end|>' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}";

const GROK: &str = "{% for message in messages %}\
    {% if message.role == 'assistant' %}{{ 'Assistant: ' }}{{ message.content }}\
    {% else %}{{ 'System: ' if message.role == 'system' else 'Human: ' }}{{ message.content | trim }}{% endif %}\
    {{ '<|separator|>\\n\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

const PANGU: &str = "{% if messages[0].role != 'system' %}{{ '[unused9]系统：[unused10]' }}{% endif %}\
    {% for message in messages %}\
    {{ {'system': '[unused9]系统：', 'user': '[unused9]用户：', 'assistant': '[unused9]助手：'}[message.role] }}\
    {{ message.content }}{{ '[unused10]' }}{% endfor %}{% if add_generation_prompt %}{{ '[unused9]助手：' }}{% endif %}";

/// All names, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    PLAIN.iter().map(|plain| plain.name).chain(OTHERS.iter().map(|(name, _)| *name))
}

/// The template with this name.
#[must_use]
pub fn named(name: &str) -> Option<String> {
    let plain = PLAIN.iter().find(|plain| plain.name == name).map(Plain::jinja);
    let other = || OTHERS.iter().find(|(known, _)| *known == name);
    plain.or_else(|| other().map(|(name, source)| format!("{{% set name = '{name}' %}}{source}")))
}

impl Plain {
    fn jinja(&self) -> String {
        let mut source = literal(self.start) + "{% for message in messages %}";
        let content = if self.trims { "{{ message.content | trim }}" } else { "{{ message.content }}" };
        for (n, (role, (before, after))) in ["system", "user", "assistant"].iter().zip(self.roles).enumerate() {
            let test = if n == 0 { "if" } else { "elif" };
            let before = before.replace("{role}", role);
            let _ = write!(source, "{{% {test} message.role == '{role}' %}}");
            source += &[&literal(&before), content, &literal(after)].concat();
        }
        source += "{% else %}{{ raise_exception('this template has no role ' ~ message.role) }}{% endif %}{% endfor %}";
        let _ = write!(source, "{{% if add_generation_prompt %}}{}{{% endif %}}", literal(self.opening));
        source
    }
}

/// Prints a text as a Jinja string: a plain line break after a block would be removed.
fn literal(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{{{{ '{}' }}}}", text.replace('\n', "\\n")) }
}
