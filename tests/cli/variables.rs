//! llama.cpp's environment variables: their values work, and errors name the variable.

use super::harness::{ON_CPU, PROMPT, Ran, Workplace, finish, timing};

fn with(place: &Workplace, name: &str, value: &str) -> Ran {
    finish(place.run_command(&["-p", PROMPT, "-s", "7", "-q"]).env(name, value))
}

#[test]
fn issue_13_8_values_of_llama_cpp_are_taken() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", PROMPT]);
    for (flag, name, values) in [
        ("-c", "LLAMA_ARG_CTX_SIZE", &["0", "auto", "4096", "4096\r"][..]),
        ("-t", "LLAMA_ARG_THREADS", &["-1", "0", "1"]),
        ("-tb", "LLAMA_ARG_THREADS_BATCH", &["-1", "0"]),
        ("-ngl", "LLAMA_ARG_N_GPU_LAYERS", &["all", "auto", "-1", "-2", "0", "99"]),
        ("-fa", "LLAMA_ARG_FLASH_ATTN", &["off", "disabled", "false", "0"]),
        ("--chat-template", "LLAMA_ARG_CHAT_TEMPLATE", &["chatml", " chatml\n"]),
        ("--chat-template-kwargs", "LLAMA_ARG_CHAT_TEMPLATE_KWARGS", &["{}"]),
    ] {
        for value in values {
            let ran = with(&place, name, value);
            assert_eq!((&ran.stdout, ran.stderr.as_str()), (&text, ""), "{name}={value}: {ran:#?}");
            // -c auto works only on the CPU, where memory is counted.
            let on_cpu = if flag == "-ngl" { &[][..] } else { &ON_CPU };
            assert_eq!(place.text_of(&[on_cpu, &["-p", PROMPT, flag, value]].concat()), text, "{flag} {value}");
        }
        assert_eq!(with(&place, name, "").stdout, text, "{name} is empty, so it says nothing");
    }
    // These may change the text.
    for value in ["on", "enabled", "true", "1", "auto", "-1"] {
        with(&place, "LLAMA_ARG_FLASH_ATTN", value).succeeds();
    }
    // The other types need heads of 32, which this model does not have.
    for value in ["f32", "f16", "bf16"] {
        with(&place, "LLAMA_ARG_CACHE_TYPE_K", value).succeeds();
        with(&place, "LLAMA_ARG_CACHE_TYPE_V", value).succeeds();
    }
    for value in ["-1", "-2"] {
        with(&place, "LLAMA_ARG_N_PREDICT", value).succeeds();
    }
}

#[test]
fn issue_13_8_a_context_of_0_is_what_the_model_was_trained_with() {
    let place = Workplace::new();
    let json = place.json(&["-p", PROMPT, "-c", "0", "-n", "1"]);
    assert_eq!(timing(&json, "predicted_n"), 1);
    let chat = |n_ctx: &str| {
        let input = place.write("input.txt", "/show\n");
        let mut command = place.command(&["chat", "-s", "7", "-c", n_ctx]);
        finish(command.stdin(std::fs::File::open(input).unwrap())).stderr
    };
    assert!(chat("0").contains(" of 65536 tokens"), "{}", chat("0"));
    assert!(chat("512").contains(" of 512 tokens"));
}

#[test]
fn issue_13_8_a_batch_takes_its_variables() {
    let place = Workplace::new();
    place.write("in.txt", "the rain\n");
    for (name, value) in [("LLAMA_ARG_N_PARALLEL", "-1"), ("LLAMA_ARG_CTX_SIZE", "0"), ("LLAMA_ARG_THREADS", "-1")] {
        let output = format!("{name}.jsonl");
        let mut command = place.command(&["batch", "-i", "in.txt", "-o", &output, "-s", "7", "-q"]);
        finish(command.env(name, value)).succeeds();
    }
    let mut command = place.command(&["batch", "-i", "in.txt", "-o", "out.jsonl"]);
    finish(command.env("LLAMA_ARG_N_PARALLEL", "0")).fails(2, &["--parallel must be", "LLAMA_ARG_N_PARALLEL=0"]);
}

#[test]
fn issue_13_8_a_mistake_names_its_variable() {
    let place = Workplace::new();
    for (name, value) in [
        ("LLAMA_ARG_CTX_SIZE", "8k"),
        ("LLAMA_ARG_CTX_SIZE", "2"),
        ("LLAMA_ARG_CTX_SIZE", "1073741825"),
        ("LLAMA_ARG_THREADS", "x"),
        ("LLAMA_ARG_THREADS", "513"),
        ("LLAMA_ARG_THREADS_BATCH", "513"),
        ("LLAMA_ARG_N_GPU_LAYERS", "some"),
        ("LLAMA_ARG_FLASH_ATTN", "maybe"),
        ("LLAMA_ARG_CACHE_TYPE_K", "q2_k"),
        ("LLAMA_ARG_CACHE_TYPE_V", "q2_k"),
        ("LLAMA_ARG_CHAT_TEMPLATE", "no-such-name"),
        ("LLAMA_ARG_CHAT_TEMPLATE", "{% for %}"),
        ("LLAMA_ARG_CHAT_TEMPLATE_FILE", "none.jinja"),
        ("LLAMA_ARG_CHAT_TEMPLATE_KWARGS", "[]"),
        ("LLAMA_ARG_N_PREDICT", "0"),
        ("LLAMA_ARG_N_PREDICT", "many"),
        ("LLAMA_ARG_MODEL", "none.gguf"),
        ("LLAMA_ARG_MODEL", "no-such-name"),
        ("CHASKI_PROFILE", "none"),
    ] {
        let ran = with(&place, name, value);
        assert_ne!(ran.code, Some(0), "{name}={value}");
        assert!(ran.stderr.contains(name), "{name}={value}: {ran:#?}");
        // An error in a given flag does not name the variable.
        let flag = [("LLAMA_ARG_CTX_SIZE", ["-c", "2"]), ("LLAMA_ARG_N_PREDICT", ["-n", "0"])];
        if let Some((_, given)) = flag.iter().find(|(known, _)| *known == name) {
            let mut command = place.run_command(&[&["-p", PROMPT], &given[..]].concat());
            let ran = finish(command.env(name, value));
            assert!(ran.code != Some(0) && !ran.stderr.contains(name), "{ran:#?}");
        }
    }
}

#[test]
fn issue_13_8_a_flag_wins_over_the_variable_of_a_flag_that_it_goes_against() {
    let place = Workplace::new();
    place.write("own.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
    let own = ["-p", PROMPT, "--chat-template-file", "own.jinja"];
    let text = place.text_of(&own);
    let mut command = place.run_command(&[&own[..], &["-s", "7", "-q"]].concat());
    assert_eq!(finish(command.env("LLAMA_ARG_CHAT_TEMPLATE", "chatml")).stdout, text);
    let mut command = place.run_command(&["-p", PROMPT, "-s", "7", "-q"]);
    command.env("LLAMA_ARG_CHAT_TEMPLATE", "chatml").env("LLAMA_ARG_CHAT_TEMPLATE_FILE", "own.jinja");
    assert_eq!(finish(&mut command).stdout, text, "the later one writes over the other, as in llama.cpp");
}
