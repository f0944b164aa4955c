//! `chaski tune`: what it saves, and which commands use it.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::harness::{PROMPT, Ran, Running, Workplace, finish, real_model};

fn tune(place: &Workplace, arguments: &[&str]) -> Ran {
    finish(&mut place.command(&[&["tune", "--budget", "2"], arguments].concat()))
}

/// The file with the tuned settings.
fn kept(place: &Workplace) -> Option<PathBuf> {
    let mut files = fs::read_dir(place.path("cache/chaski/tuned")).ok()?;
    let file = files.next()?.unwrap().path();
    assert!(files.next().is_none(), "one file, and no temporary one");
    Some(file)
}

/// The settings that `run` uses for a short prompt, if the environment gives no threads.
fn used(place: &Workplace, arguments: &[&str]) -> Value {
    let mut command = place.run_command(&[&["--json", "-p", PROMPT], arguments].concat());
    finish(command.env_remove("LLAMA_ARG_THREADS")).json()["settings"].clone()
}

/// Replaces a tuned setting.
fn pretend(place: &Workplace, name: &str, value: Value) {
    let path = kept(place).unwrap();
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for span in ["short", "long"] {
        file["settings"][span][name] = value.clone();
    }
    fs::write(&path, file.to_string()).unwrap();
}

#[test]
fn settings_are_kept_used_and_forgotten() {
    let place = Workplace::new();
    let default = used(&place, &[]);
    assert_eq!(default["flash_attn"], "off");
    fs::remove_dir_all(place.path("cache")).unwrap();

    let ran = tune(&place, &["-o", "json"]);
    ran.succeeds();
    let saved =
        "saved: chaski uses these settings from now on; flags override them; to delete them: chaski tune --forget\n";
    assert!(ran.stderr.ends_with(saved), "{ran:#?}");
    let report = ran.json();
    assert_eq!(report["trials"][0]["settings"], default, "the default is measured first");
    assert!(report["trials"][0]["times"]["long"]["ms"]["16"].as_f64().unwrap() > 0.0);
    assert_eq!(used(&place, &[]), report["chosen"]["short"]);
    let n_curves = fs::read_dir(place.path("cache/chaski/curves")).unwrap().count();
    assert!((1..=2).contains(&n_curves), "the curves of what was chosen: {n_curves}");

    // Whatever tune chose here: saved settings are used, and given ones override them.
    pretend(&place, "flash_attn", json!("on"));
    pretend(&place, "threads", json!(1));
    let now = used(&place, &[]);
    assert_eq!((&now["flash_attn"], &now["threads"]), (&json!("on"), &json!(1)));
    let given = used(&place, &["-fa", "off", "-t", "2", "-ctk", "f32"]);
    let expected = json!({"flash_attn": "off", "threads": 2, "threads_batch": 2, "cache_type_k": "f32", "cache_type_v": now["cache_type_v"]});
    assert_eq!(given, expected);

    tune(&place, &["--forget"]).succeeds();
    assert_eq!(kept(&place), None);
    assert_eq!(used(&place, &[]), default);
    assert!(tune(&place, &["--forget"]).succeeds().stderr.contains("there were no tuned settings"));
}

#[test]
fn a_damaged_file_is_ignored() {
    let place = Workplace::new();
    let default = used(&place, &[]);
    tune(&place, &[]).succeeds();
    let path = kept(&place).unwrap();
    let good = fs::read(&path).unwrap();
    for bad in [&b""[..], &good[..good.len() / 2], b"{}", b"\xff\xfe"] {
        fs::write(&path, bad).unwrap();
        assert_eq!(used(&place, &[]), default);
    }
    fs::write(&path, &good).unwrap();
    pretend(&place, "threads", json!(0));
    assert_eq!(used(&place, &[]), default, "settings that cannot be");
}

#[test]
fn the_table_shows_every_setting_at_both_lengths() {
    let ran = tune(&Workplace::new(), &[]);
    ran.succeeds();
    let rows: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("| `-fa")).collect();
    assert!(rows.len() >= 2 && rows.len().is_multiple_of(2), "{ran:#?}");
    for length in ["| 256 |", "| 4096 |"] {
        let of_length = || rows.iter().filter(|row| row.contains(length));
        assert_eq!(of_length().filter(|row| row.contains("**chosen**")).count(), 1, "{ran:#?}");
        assert_eq!(of_length().filter(|row| row.contains("default")).count(), 1, "{ran:#?}");
        let chosen = of_length().find(|row| row.contains("**chosen**")).unwrap();
        assert!(!chosen.contains("q8_0"), "lossy, and not asked for: {ran:#?}");
    }
}

#[test]
fn an_interrupt_keeps_nothing() {
    let place = Workplace::new();
    let running = Running::start(&mut place.command(&["tune", "--budget", "600", "-v"]));
    // The first context exists; measuring it takes longer than the signal.
    running.wait_for_stderr("compute buffer size");
    running.signal("INT");
    let ran = running.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""));
    assert!(ran.stderr.ends_with("error: interrupted\n"));
    // The sandbox creates the folder; it is empty.
    assert_eq!(std::fs::read_dir(place.path("cache/chaski")).map_or(0, Iterator::count), 0);
}

#[test]
fn mistakes_are_told() {
    let place = Workplace::new();
    finish(&mut place.command(&["tune", "--budget", "0"])).fails(2, &["--budget must be 1 to 3600"]);
    finish(&mut place.command(&["tune", "-m", "none.gguf"])).fails(4, &["none.gguf"]).hints("get-model.sh");
    place.run(&["-p", PROMPT, "-fa", "off", "-ctv", "q8_0"]).fails(2, &["-ctv"]).hints("-ctk q8_0");
    let file = place.write("file", "in the way");
    let ran = finish(place.command(&["tune", "--budget", "1"]).env("XDG_CACHE_HOME", &file));
    assert_eq!(ran.code, Some(1));
    // Before anything is measured.
    assert!(
        ran.stderr.contains("error: there is no folder to save the settings in") && ran.stdout.is_empty(),
        "{ran:#?}"
    );
    let mamba = Workplace::with_model(&super::support::tiny::tiny_mamba(1));
    finish(&mut mamba.command(&["tune"])).fails(1, &["recurrent"]).hints("-t N");
}

#[test]
fn every_cache_type_decodes() {
    let place = Workplace::new();
    for (k, v) in [("f32", "f32"), ("f16", "f16"), ("bf16", "bf16"), ("f32", "f16")] {
        let answer = place.json(&["-p", PROMPT, "-ctk", k, "-ctv", v]);
        assert_eq!((&answer["settings"]["cache_type_k"], &answer["settings"]["cache_type_v"]), (&json!(k), &json!(v)));
        assert_eq!(answer["settings"]["flash_attn"], "off");
    }
    // Blocks of 32 do not fit this model's heads of 16.
    place.run(&["-p", PROMPT, "-ctv", "q8_0"]).fails(1, &["V cache type q8_0"]);
    let Some(model) = real_model("every_cache_type_decodes") else { return };
    for (k, v, attention) in [("q8_0", "f16", "off"), ("f16", "q8_0", "on")] {
        let answer = place.json(&["-m", model.to_str().unwrap(), "-p", PROMPT, "-n", "4", "-ctk", k, "-ctv", v]);
        assert_eq!(answer["settings"]["flash_attn"], attention, "quantized values bring flash attention along");
    }
}

#[test]
fn a_cache_with_a_sliding_window_is_measured_as_well() {
    let place = Workplace::with_model(&super::support::tiny::tiny_gemma3(1));
    let report = tune(&place, &["-o", "json"]).json();
    assert!(report["trials"][0]["times"]["long"]["ms"]["1"].as_f64().unwrap() > 0.0, "{report}");
}
