//! Every test that docs/reliability.md names exists.

use std::fs;
use std::path::Path;

#[test]
fn every_row_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() >= 16);
    for row in rows {
        let tests: Vec<(&str, &str)> = row.split('`').filter_map(|code| code.split_once(".rs::")).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for (path, name) in tests {
            let code = fs::read_to_string(root.join(format!("{path}.rs"))).unwrap_or_default();
            assert!(code.contains(&format!("fn {name}(")), "{path}.rs has no test {name}");
        }
    }
}
