//! Splits a job over machines that share one input file: `--shard 2/4` does every fourth line, from the second on.
//!
//! A line's shard depends only on the line's position. `auto` reads the shard from the variables of a scheduler's array
//! job; the variables are passed in. With `claim` a process does one shard after another; [`crate::claims`] says which.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Most shards of a job.
const MAX_SHARDS: u64 = 100_000;

/// Most shards of a job whose shards are claimed. A process looks at the claims of all shards before it takes one.
const MAX_CLAIMED: u64 = 10_000;

/// What a process does of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// One shard; [`Shard::ALL`] is the whole job.
    One(Shard),
    /// One free shard after another, of this many. `None`: the first process of the job decides how many.
    Claim(Option<u64>),
}

impl Share {
    /// The shard of a process that does one; otherwise the whole job.
    #[must_use]
    pub fn shard(self) -> Shard {
        match self {
            Share::One(shard) => shard,
            Share::Claim(_) => Shard::ALL,
        }
    }

    /// Parses `claim`, `claim/N`, or what [`Shard::parse`] takes.
    ///
    /// # Errors
    /// What is wrong with the text or the variables.
    pub fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Share, String> {
        let Some(rest) = text.strip_prefix("claim") else { return Shard::parse(text, variable).map(Share::One) };
        if rest.is_empty() {
            return Ok(Share::Claim(None));
        }
        let n_shards = rest.strip_prefix('/').ok_or("expected claim or claim/N")?;
        match n_shards.parse() {
            Ok(n) if (1..=MAX_CLAIMED).contains(&n) => Ok(Share::Claim(Some(n))),
            Ok(_) => Err(format!("N must be from 1 to {MAX_CLAIMED}")),
            Err(_) => Err(format!("{n_shards:?} is not a number")),
        }
    }
}

/// One shard of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The shard's number, from 1.
    pub number: u64,
    /// Number of shards.
    pub n_shards: u64,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.n_shards)
    }
}

impl Shard {
    /// The whole job.
    pub const ALL: Shard = Shard { number: 1, n_shards: 1 };

    fn new(number: u64, n_shards: u64) -> Result<Shard, String> {
        match number {
            _ if !(1..=MAX_SHARDS).contains(&n_shards) => Err(format!("N must be from 1 to {MAX_SHARDS}")),
            _ if !(1..=n_shards).contains(&number) => Err(format!("I must be from 1 to {n_shards}, not {number}")),
            _ => Ok(Shard { number, n_shards }),
        }
    }

    /// Parses `I/N`, `auto` (the task of a Slurm array), or `auto/N` (also the index of a Kubernetes Indexed Job).
    ///
    /// # Errors
    /// What is wrong with the text or the variables.
    pub fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Shard, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
        let read = |name: &str| variable(name).map(|value| number(&value)).transpose();
        let (which, n_shards) = match text.split_once('/') {
            Some((which, n_shards)) => (which, Some(number(n_shards)?)),
            None if text == "auto" => (text, None),
            None => return Err("expected I/N, auto, auto/N, claim or claim/N".to_owned()),
        };
        if which != "auto" {
            return Shard::new(number(which)?, n_shards.ok_or("expected I/N")?);
        }
        // An array may begin at any number and have any step.
        let task = match read("SLURM_ARRAY_TASK_ID")? {
            Some(task) => {
                let (min, step) = (read("SLURM_ARRAY_TASK_MIN")?, read("SLURM_ARRAY_TASK_STEP")?);
                let offset = task
                    .checked_sub(min.unwrap_or(0))
                    .ok_or("SLURM_ARRAY_TASK_ID is less than SLURM_ARRAY_TASK_MIN")?;
                Some(offset / step.unwrap_or(1).max(1))
            }
            None => read("JOB_COMPLETION_INDEX")?,
        };
        let task = task.ok_or("auto needs SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX, but neither is set")?;
        let n_tasks = read("SLURM_ARRAY_TASK_COUNT")?;
        let n_shards = match (n_shards, n_tasks) {
            // Perhaps some tasks of an array were submitted again: then their numbers from the first one on mean nothing.
            (Some(n_shards), Some(n_tasks)) if n_shards != n_tasks => {
                Shard::new(1, n_shards)?;
                let tasks = if n_tasks == 1 { "1 task".to_owned() } else { format!("{n_tasks} tasks") };
                // The shard, if the whole array is numbered from 1.
                let id = read("SLURM_ARRAY_TASK_ID")?.filter(|id| (1..=n_shards).contains(id)).unwrap_or(1);
                return Err(format!(
                    "the array has {tasks}, not {n_shards}: write the shard's number, as in --shard {id}/{n_shards}"
                ));
            }
            (Some(n), _) | (None, Some(n)) => n,
            (None, None) => {
                return Err(
                    "the scheduler does not say how many shards there are: write auto/N, as in auto/8".to_owned()
                );
            }
        };
        Shard::new(task.saturating_add(1), n_shards)
    }

    /// Whether the line at this position is in the shard.
    #[must_use]
    pub fn has(self, index: u64) -> bool {
        index % self.n_shards == self.number - 1
    }

    /// How many of the first `n_lines` lines are in the shard.
    #[must_use]
    pub fn n_of(self, n_lines: u64) -> u64 {
        (n_lines + self.n_shards - self.number) / self.n_shards
    }

    /// The shard's output: `results.jsonl` becomes `results.2-of-4.jsonl`.
    #[must_use]
    pub fn output(self, output: &Path) -> PathBuf {
        if self == Shard::ALL {
            return output.to_owned();
        }
        named(output, &format!("{}-of-{}", self.number, self.n_shards))
    }

    /// The output of the shard's owner number `generation`: `results.jsonl` becomes `results.2-of-4.g1.jsonl`.
    #[must_use]
    pub fn claimed_output(self, output: &Path, generation: u64) -> PathBuf {
        named(output, &format!("{}-of-{}.g{generation}", self.number, self.n_shards))
    }
}

/// Adds a part to a file's name, before its extension.
fn named(output: &Path, part: &str) -> PathBuf {
    let mut name = OsString::from(output.file_stem().unwrap_or_default());
    name.push(format!(".{part}"));
    if let Some(extension) = output.extension() {
        name.push(".");
        name.push(extension);
    }
    output.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Shard, String> {
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Shard::parse(text, value)
    }

    #[test]
    fn shards_are_given_or_read_from_a_scheduler() {
        let shard = |number, n_shards| Ok(Shard { number, n_shards });
        assert_eq!(parse("2/4", &[]), shard(2, 4));
        let slurm = [("SLURM_ARRAY_TASK_ID", "10"), ("SLURM_ARRAY_TASK_COUNT", "8"), ("SLURM_ARRAY_TASK_MIN", "8")];
        assert_eq!(parse("auto", &slurm), shard(3, 8));
        let steps = [slurm[0], slurm[1], slurm[2], ("SLURM_ARRAY_TASK_STEP", "2")];
        assert_eq!(parse("auto", &steps), shard(2, 8));
        assert_eq!(parse("auto/8", &[("JOB_COMPLETION_INDEX", "0")]), shard(1, 8));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["0/4", "5/4", "1/0", "1", "a/4", "1/b", "", "/", "-1/4", "1/100001"] {
            assert!(parse(text, &[]).is_err(), "{text}");
        }
        assert!(parse("auto", &[]).unwrap_err().contains("neither is set"));
        assert!(parse("auto", &[("JOB_COMPLETION_INDEX", "0")]).unwrap_err().contains("auto/8"));
        assert!(parse("auto/2", &[("JOB_COMPLETION_INDEX", "2")]).unwrap_err().contains("not 3"));
        assert!(parse("auto/2", &[("JOB_COMPLETION_INDEX", "x")]).is_err());
        // Task 3 of an array of 8, submitted again on its own, is not shard 1.
        let again = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "1"), ("SLURM_ARRAY_TASK_MIN", "3")];
        let error = parse("auto/8", &again).unwrap_err();
        assert_eq!(error, "the array has 1 task, not 8: write the shard's number, as in --shard 3/8");
        let others = [("SLURM_ARRAY_TASK_ID", "0"), ("SLURM_ARRAY_TASK_COUNT", "2")];
        let error = parse("auto/8", &others).unwrap_err();
        assert_eq!(error, "the array has 2 tasks, not 8: write the shard's number, as in --shard 1/8");
        assert_eq!(parse("auto/0", &again).unwrap_err(), "N must be from 1 to 100000");
    }

    #[test]
    fn shards_are_claimed_if_asked() {
        let share = |text: &str| Share::parse(text, |_| None);
        assert_eq!(share("claim"), Ok(Share::Claim(None)));
        assert_eq!(share("claim/40"), Ok(Share::Claim(Some(40))));
        assert_eq!(share("2/4"), Ok(Share::One(Shard { number: 2, n_shards: 4 })));
        for text in ["claim/", "claim/0", "claim/10001", "claim/x", "claims", "claim 4", "Claim"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_line_is_in_one_shard() {
        for n_shards in 1..7 {
            let shards: Vec<Shard> = (1..=n_shards).map(|number| Shard { number, n_shards }).collect();
            for n_lines in 0..30 {
                let n_of = |shard: &Shard| (0..n_lines).filter(|&index| shard.has(index)).count() as u64;
                assert!(shards.iter().all(|shard| shard.n_of(n_lines) == n_of(shard)));
                assert_eq!(shards.iter().map(n_of).sum::<u64>(), n_lines);
            }
        }
    }

    #[test]
    fn each_has_an_output_of_its_own() {
        let shard = Shard { number: 2, n_shards: 4 };
        assert_eq!(shard.output(Path::new("a/results.jsonl")), Path::new("a/results.2-of-4.jsonl"));
        assert_eq!(shard.output(Path::new("results")), Path::new("results.2-of-4"));
        assert_eq!(Shard::ALL.output(Path::new("results.jsonl")), Path::new("results.jsonl"));
        assert_eq!(shard.claimed_output(Path::new("a/results.jsonl"), 3), Path::new("a/results.2-of-4.g3.jsonl"));
        assert_eq!(Shard::ALL.claimed_output(Path::new("results"), 1), Path::new("results.1-of-1.g1"));
    }
}
