//! Resolves a name to a model. Pure.

use crate::models::search::Found;

/// The result of resolving a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// Exactly one model.
    One(&'a Found),
    /// Several models match.
    Several(Vec<&'a Found>),
    /// No model matches.
    Nothing,
}

/// Finds the model with this name, ignoring case, or else the only one whose name begins with it. Files known to be
/// incomplete count only if no complete model matches.
#[must_use]
pub fn meaning<'a>(name: &str, found: &'a [Found]) -> Meaning<'a> {
    let name = name.to_lowercase();
    let known = |found: &Found, matches: &dyn Fn(&str) -> bool| {
        std::iter::once(&found.name).chain(&found.aliases).any(|known| matches(&known.to_lowercase()))
    };
    let is_exact = |known: &str| known == name;
    let begins = |known: &str| known.starts_with(&name);
    for is_whole in [true, false] {
        for matches in [&is_exact as &dyn Fn(&str) -> bool, &begins] {
            let candidates = found.iter().filter(|found| found.fault.is_none() == is_whole && known(found, matches));
            let candidates: Vec<&Found> = candidates.collect();
            match candidates[..] {
                [] => {}
                [one] => return Meaning::One(one),
                _ => return Meaning::Several(candidates),
            }
        }
    }
    Meaning::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::locations::Store;

    fn found(name: &str, aliases: &[&str], is_whole: bool) -> Found {
        Found {
            name: name.into(),
            aliases: aliases.iter().map(|&alias| alias.into()).collect(),
            store: Store::Folder,
            path: name.into(),
            fault: (!is_whole).then(|| "partial".into()),
        }
    }

    #[test]
    fn a_name_is_exact_or_the_only_beginning() {
        let all = [
            found("SmolLM2-135M.Q4_1", &["org/SmolLM2/SmolLM2-135M.Q4_1"], true),
            found("qwen", &[], true),
            found("qwen-coder", &[], true),
            found("smollm:latest", &["smollm"], true),
            found("half", &[], false),
            found("qwen-cut", &[], false),
        ];
        let one = |name: &str| match meaning(name, &all) {
            Meaning::One(found) => found.name.clone(),
            Meaning::Several(several) => several.iter().map(|found| found.name.clone()).collect::<Vec<_>>().join("|"),
            Meaning::Nothing => "-".to_owned(),
        };
        assert_eq!(one("smollm2-135m.q4_1"), "SmolLM2-135M.Q4_1");
        assert_eq!(one("smollm2"), "SmolLM2-135M.Q4_1");
        assert_eq!(one("ORG/smol"), "SmolLM2-135M.Q4_1");
        assert_eq!(one("qwen"), "qwen", "an exact name is no beginning of another");
        assert_eq!(one("qwen-c"), "qwen-coder", "a partial file is no candidate beside a whole one");
        assert_eq!(one("qw"), "qwen|qwen-coder");
        assert_eq!(one("smollm"), "smollm:latest");
        assert_eq!(one("half"), "half", "so that it can be told what is wrong with it");
        assert_eq!(one("llama"), "-");
    }
}
