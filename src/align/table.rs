//! The forms and fillings that the shipped prompts are made from. `$NAME` is a slot, see `prompts`.
//!
//! All texts were written for this project. They must avoid the subjects of `bench/prompts.jsonl`.

mod code;
mod passages;
mod subjects;

/// A kind of prompt.
pub(super) struct Kind {
    /// Its name, as in `bench/prompts.jsonl`.
    pub(super) name: &'static str,
    /// Its weight in the draw of a kind.
    pub(super) n_tickets: usize,
    /// Templates of its prompts.
    pub(super) forms: &'static [&'static str],
}

/// The kinds of prompts. Chat and code have the most weight: they repeat little of their own text, so they gain most
/// from what the drafter learned before.
#[rustfmt::skip]
pub(super) const KINDS: &[Kind] = &[
    Kind { name: "chat", n_tickets: 10, forms: &[
        "Explain $CONCEPT to $AUDIENCE.",
        "Explain $CONCEPT in $LENGTH.",
        "What is $CONCEPT, and why does it matter?",
        "What are the most common mistakes people make with $ACTIVITY, and how can they be avoided?",
        "Give me $COUNT practical tips for $ACTIVITY.",
        "How do I get started with $ACTIVITY? I have about $HOURS hours a week.",
        "Compare $PAIR. When would you choose which?",
        "What are the advantages and disadvantages of $ACTIVITY for $AUDIENCE?",
        "$SITUATION How should I go about it?",
        "$SITUATION Please give me a step-by-step plan.",
        "Write $WRITING about $THING.",
        "Write a $TONE e-mail to $RECIPIENT $MATTER.",
        "Make a $SPAN plan for $ACTIVITY, as a list with one line for each part.",
        "Tell me about $THING: where it comes from, how it works, and one surprising fact.",
        "I heard that $CLAIM. Is that true? Answer in $LENGTH.",
        "Suggest $COUNT ideas for $OCCASION, each with a short explanation.",
        "What questions should I ask before $DECISION?",
    ]},
    Kind { name: "code", n_tickets: 11, forms: &[
        "Write a $LANGUAGE function that $FUNCTION.",
        "Write a $LANGUAGE function that $FUNCTION. $EXTRA",
        "Write a $LANGUAGE function that $FUNCTION. $EXTRA",
        "In $LANGUAGE, $FUNCTIONS $EXTRA",
        "Write a small command line program in $LANGUAGE that $PROGRAM.",
        "Write a $LANGUAGE program that $PROGRAM. $EXTRA",
        "Implement $STRUCTURE in $LANGUAGE with methods to $METHODS.",
        "Implement $STRUCTURE in $LANGUAGE. $EXTRA",
        "Show me how to $TASK in $LANGUAGE, with a short example.",
        "Write an SQL query that $QUERY. The tables are: $SCHEMA.",
        "Explain what this code does, line by line:\n\n$SNIPPET",
        "Write unit tests for this code:\n\n$SNIPPET",
        "Rewrite this code in $LANGUAGE:\n\n$SNIPPET",
        "Write a regular expression that matches $PATTERN, and explain its parts.",
    ]},
    Kind { name: "edit", n_tickets: 3, forms: &[
        "$SNIPPET\n\n$CHANGE Print the whole code again.",
        "Here is some code of mine:\n\n$SNIPPET\n\n$CHANGE Answer with the changed code only.",
        "$CHANGE Keep everything else as it is.\n\n$SNIPPET",
        "Correct the style of the following text, but keep its meaning and most of its words:\n\n$PASSAGE",
        "Rewrite this text so that every sentence is in the past tense:\n\n$PASSAGE",
    ]},
    Kind { name: "summary", n_tickets: 2, forms: &[
        "$PASSAGE\n\nSummarize this $SUMMARY.",
        "Please summarize the text below $SUMMARY.\n\n$PASSAGE",
        "What are the main points of this text? Answer $SUMMARY.\n\n$PASSAGE",
    ]},
    Kind { name: "qa", n_tickets: 2, forms: &[
        "$PASSAGE\n\nWhich sentence tells $ASPECT? Quote it word for word.",
        "Answer with a quotation from the text: what does it say about $ASPECT?\n\n$PASSAGE",
        "$PASSAGE\n\nBy this text, what is said about $ASPECT? Quote first, then explain in your own words.",
    ]},
    Kind { name: "math", n_tickets: 2, forms: &[
        "$PROBLEM Think step by step.",
        "$PROBLEM Show your work.",
        "$PROBLEM",
    ]},
    Kind { name: "json", n_tickets: 2, forms: &[
        "Turn this into JSON with the keys $KEYS:\n\n$RECORDS",
        "$RECORDS\n\nWrite the records above as a JSON array of objects. Use short keys in lower case.",
        "Generate a JSON array of $COUNT made-up $ENTITIES with the keys $KEYS.",
        "Write a JSON schema for $ENTITIES with the properties $KEYS.",
    ]},
    Kind { name: "translation", n_tickets: 2, forms: &[
        "Translate into $TONGUE:\n\n$SENTENCE $SENTENCE",
        "Translate into $TONGUE:\n\n$PASSAGE",
        "How do you say this in $TONGUE? \"$SENTENCE\"",
        "Give me the $TONGUE for these, one per line:\n\n$SENTENCE\n$SENTENCE\n$SENTENCE",
    ]},
];

/// The fillings of each slot, by name.
#[rustfmt::skip]
pub(super) const LISTS: &[(&str, &[&str])] = &[
    ("CONCEPT", subjects::CONCEPT), ("AUDIENCE", subjects::AUDIENCE), ("LENGTH", subjects::LENGTH),
    ("ACTIVITY", subjects::ACTIVITY), ("COUNT", subjects::COUNT), ("HOURS", subjects::HOURS), ("PAIR", subjects::PAIR),
    ("SITUATION", subjects::SITUATION), ("WRITING", subjects::WRITING), ("THING", subjects::THING),
    ("TONE", subjects::TONE), ("RECIPIENT", subjects::RECIPIENT), ("MATTER", subjects::MATTER), ("SPAN", subjects::SPAN),
    ("CLAIM", subjects::CLAIM), ("OCCASION", subjects::OCCASION), ("DECISION", subjects::DECISION),
    ("LANGUAGE", code::LANGUAGE), ("FUNCTION", code::FUNCTION), ("FUNCTIONS", code::FUNCTIONS), ("EXTRA", code::EXTRA),
    ("PROGRAM", code::PROGRAM), ("STRUCTURE", code::STRUCTURE), ("METHODS", code::METHODS), ("TASK", code::TASK),
    ("QUERY", code::QUERY), ("SCHEMA", code::SCHEMA), ("SNIPPET", code::SNIPPET), ("CHANGE", code::CHANGE),
    ("PATTERN", code::PATTERN),
    ("PASSAGE", passages::PASSAGE), ("SUMMARY", passages::SUMMARY), ("ASPECT", passages::ASPECT),
    ("PROBLEM", passages::PROBLEM), ("RECORDS", passages::RECORDS), ("ENTITIES", passages::ENTITIES),
    ("KEYS", passages::KEYS), ("TONGUE", passages::TONGUE), ("SENTENCE", passages::SENTENCE),
    ("PERSON", passages::PERSON), ("TOWN", passages::TOWN), ("FEW", passages::FEW), ("TENS", passages::TENS),
    ("HUNDREDS", passages::HUNDREDS), ("DAY", passages::DAY), ("MONTH", passages::MONTH), ("GOODS", passages::GOODS),
];
