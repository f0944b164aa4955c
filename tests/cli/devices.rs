//! `chaski devices`, and `-ngl` without a GPU.

use super::harness::{PROMPT, Workplace, finish};

#[test]
fn devices_are_shown_as_text_and_as_json() {
    let place = Workplace::new();
    let table = finish(&mut place.command(&["devices"]));
    assert!(table.succeeds().stdout.starts_with("back ends in this build: "), "{}", table.stdout);
    assert!(table.stdout.lines().any(|line| line.starts_with("CPU ")), "{}", table.stdout);

    let ran = finish(&mut place.command(&["devices", "--json", "-m", "model.gguf"]));
    let json: serde_json::Value = serde_json::from_str(&ran.succeeds().stdout).unwrap();
    assert_eq!(ran.stderr, "");
    let is_of = |kind: &str| json["devices"].as_array().unwrap().iter().any(|device| device["kind"] == kind);
    assert!(is_of("cpu"));
    let (model, all) = (&json["model"], json["model"]["n_layers"].as_u64().unwrap());
    assert!(all > 1);
    let on_gpu = model["on_gpu"].as_array().unwrap();
    // `null` means that the memory of a GPU is unknown.
    let n = |at: &serde_json::Value| at["n_gpu_layers"].as_u64().unwrap_or(all);
    assert!(!on_gpu.is_empty() && on_gpu.iter().all(|at| n(at) <= all));
    if !is_of("gpu") && !is_of("integrated-gpu") {
        assert!(on_gpu.iter().all(|at| n(at) == 0), "{model}");
        assert!(table.stdout.contains("no GPU: all layers run on the CPU"));
    }

    finish(&mut place.command(&["devices", "-m", "missing.gguf"])).fails(4, &["missing.gguf"]);
}

#[test]
fn layers_for_a_gpu_are_a_number_or_a_word() {
    let place = Workplace::new();
    let has_gpu = !finish(&mut place.command(&["devices"])).stdout.contains("no GPU:");
    let plain = place.text_of(&["-p", PROMPT, "-ngl", "0"]);
    for n in ["-1", "auto", "all", "1", "99"] {
        let text = place.text_of(&["-p", PROMPT, "-ngl", n]);
        // Where there is no GPU, there is nothing to choose. A GPU rounds differently.
        assert!(has_gpu || text == plain, "{n}");
    }
    place.run(&["-p", PROMPT, "-ngl", "some"]).fails(2, &["--n-gpu-layers", "a number of layers, all or auto"]);
}
