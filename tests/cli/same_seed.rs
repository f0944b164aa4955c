//! The same seed gives the same text in every command: `run`, the first answer of a chat, and a line of a batch.

use std::fs::File;

use serde_json::{Value, json};

use super::harness::{Workplace, finish};

const SYSTEM: &str = "be brief";
/// More lines than lanes, so that some start beside lines that are already running.
const MESSAGES: [&str; 6] = [
    "the rain in the station",
    "is it the station",
    "he said that",
    "the rain in the station of the men and the rest of it",
    "on the line",
    "it is the one that he has seen",
];

#[test]
fn run_chat_and_batch_give_the_same_text() {
    let place = Workplace::new();
    for sampling in [&["--temp", "0"][..], &["--temp", "0.9", "--top-k", "30", "--repeat-penalty", "1.1"]] {
        let seeds = MESSAGES.iter().zip(7_u32..);
        let line = |(message, seed): (&&str, u32)| {
            let messages = json!([{"role": "system", "content": SYSTEM}, {"role": "user", "content": message}]);
            json!({"custom_id": seed.to_string(), "messages": messages, "seed": seed}).to_string() + "\n"
        };
        place.write("lines.jsonl", seeds.clone().map(line).collect::<String>());
        let batch = ["batch", "-i", "lines.jsonl", "-o", "-", "-np", "3", "--ordered", "--no-drafts", "-q"];
        let batch = finish(&mut place.command(&[&batch[..], sampling].concat()));
        let records = batch.succeeds().stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_batch: Vec<Value> =
            records.map(|record| record["response"]["body"]["choices"][0]["message"]["content"].clone()).collect();
        assert_eq!(of_batch.len(), MESSAGES.len());

        for ((message, seed), of_batch) in seeds.zip(of_batch) {
            let seed = seed.to_string();
            let common = [&["-sys", SYSTEM, "-s", &seed, "--drafter", "none"], sampling].concat();
            let run = place.run(&[&["-p", message, "-q"], &common[..]].concat()).succeeds().stdout.clone();
            let input = File::open(place.write("message.txt", message)).unwrap();
            let mut chat = place.command(&[&["chat"], &common[..]].concat());
            assert_eq!(
                finish(chat.stdin(input)).succeeds().stdout,
                format!("{run}\n"),
                "chat, {sampling:?}, seed {seed}"
            );
            assert_eq!(of_batch, run, "batch, {sampling:?}, seed {seed}");
        }
    }
}
